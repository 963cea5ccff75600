/** Adapters that native calls keep by number: see native/kept_adapters.h. */
import { nativeCalls } from './native-calls.ts';
import { profiled } from './profile.ts';
import { idsOrNone, MODULES } from './tensor-ids.ts';
import type { Tensor } from './tf.ts';

/** A [rank, in] and B [out, rank]. */
export interface AdapterPair {
  a: Tensor;
  b: Tensor;
}

export interface AdapterToKeep {
  /** Per layer, by the matrix's name. */
  layers: readonly Readonly<Record<string, AdapterPair | undefined>>[];
  head: AdapterPair | undefined;
  scale: number;
  /** Its values are rounded to bfloat16, and multiplied as such. */
  narrow: boolean;
}

/** The adapter's number, until {@link dropAdapter}; the tensors stay the caller's and are not needed any more. */
export function keepAdapter({ layers, head, scale, narrow }: AdapterToKeep): number {
  const pairs = [...layers.flatMap((layer) => MODULES.map((name) => layer[name])), head];
  const ids = idsOrNone(pairs.flatMap((pair) => [pair?.a, pair?.b]));
  const shapes = pairs.flatMap((pair) => (pair ? [...pair.a.shape, pair.b.shape[0]!] : [0, 0, 0]));
  return profiled('call', 'keep_adapter', () =>
    nativeCalls().keepAdapter(ids, Int32Array.from(shapes), scale, narrow),
  );
}

export function dropAdapter(number: number): void {
  nativeCalls().dropAdapter(number);
}

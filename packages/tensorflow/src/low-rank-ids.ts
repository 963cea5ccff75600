/** Adapters as native calls take them: ids that are good while the tensors live, -1 where there is none. */
import { tensorIds } from './backend.ts';
import type { Tensor } from './tf.ts';

/** The matrices that adapters adapt, in the order of native Module. */
export const MODULES = ['q', 'k', 'v', 'o', 'gate', 'up', 'down'];

/** A [rank, in] and the transpose of B, [rank, out]. */
export type LowRankTensors = [a: Tensor, bTransposed: Tensor];

/** Two ids for each pair. */
export function lowRankIds(pairs: readonly (LowRankTensors | undefined)[]): Int32Array {
  return idsOrNone(pairs.flatMap((pair) => pair ?? [undefined, undefined]));
}

/**
 * Ids of one adapter's layers.
 * @param layers Per layer, by the matrix's name
 */
export function layerAdapterIds(
  layers: readonly Readonly<Record<string, LowRankTensors | undefined>>[],
): Int32Array {
  return lowRankIds(layers.flatMap((layer) => MODULES.map((name) => layer[name])));
}

export function idsOrNone(tensors: readonly (Tensor | undefined)[]): Int32Array {
  const ids = tensorIds(tensors.filter((tensor) => tensor !== undefined));
  let next = 0;
  return Int32Array.from(tensors, (tensor) => (tensor ? ids[next++]! : -1));
}

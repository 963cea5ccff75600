/** The head over one pass whose rows may have different adapters: once for each adapter that adapts the head. */
import { type Tensor, tf } from '@anneal/tensorflow';
import type { EngineDatum } from '../engine.ts';
import type { LoraAdapter } from '../lora/adapter.ts';
import type { MicroBatch } from './batch-plan.ts';
import type { HeadPass } from './head-pass.ts';
import type { PassAdapters } from './pass-adapters.ts';

export interface HeadGradients {
  /** [height, width, hidden] */
  dx: Tensor;
  /** Gradients of the head's A and B, of adapters that have them. */
  adapterGrads: Map<LoraAdapter, Tensor[]>;
}

export class HeadRun {
  readonly #head: HeadPass;
  readonly #x: Tensor;
  readonly #batch: MicroBatch;
  readonly #data: EngineDatum[];
  /** One adapter, or the first of several that all leave the head alone, for all positions; or several, each for its own. */
  readonly #shares: { adapter: LoraAdapter; wanted: (position: number) => boolean }[];

  constructor(
    head: HeadPass,
    x: Tensor,
    { distinct }: PassAdapters,
    adapterOf: (row: number) => LoraAdapter,
    batch: MicroBatch,
    data: EngineDatum[],
  ) {
    this.#head = head;
    this.#x = x;
    this.#batch = batch;
    this.#data = data;
    const isShared = distinct.length === 1 || distinct.every((adapter) => !adapter.head);
    this.#shares = isShared
      ? [{ adapter: distinct[0]!, wanted: () => true }]
      : distinct.map((adapter) => ({
          adapter,
          wanted: (position) => adapterOf(Math.floor(position / batch.width)) === adapter,
        }));
  }

  /** Logprobs of the targets, [height, width, k]. */
  logprobs(): Float32Array {
    return summed(
      this.#shares.map(({ adapter, wanted }) =>
        this.#head.logprobs(this.#x, adapter, this.#batch, this.#data, wanted),
      ),
    );
  }

  /** @param dlogprobs [height, width, k] */
  gradients(dlogprobs: Float32Array): { logprobs: Float32Array; gradients: HeadGradients } {
    const runs = this.#shares.map(({ adapter, wanted }) => ({
      adapter,
      ...this.#head.gradients(this.#x, adapter, this.#batch, this.#data, dlogprobs, wanted),
    }));
    const dxs = runs.map(({ gradients }) => gradients.dx);
    const dx = dxs.length === 1 ? dxs[0]! : (tf.addN(dxs) as Tensor);
    if (dxs.length > 1) tf.dispose(dxs);
    const adapterGrads = new Map(runs.map(({ adapter, gradients }) => [adapter, gradients.adapterGrads]));
    return { logprobs: summed(runs.map(({ logprobs }) => logprobs)), gradients: { dx, adapterGrads } };
  }
}

/** Each position is filled by one run and zero in the others. */
function summed(values: Float32Array[]): Float32Array {
  const [first, ...others] = values as [Float32Array, ...Float32Array[]];
  for (const other of others) for (let i = 0; i < first.length; i++) first[i] = first[i]! + other[i]!;
  return first;
}

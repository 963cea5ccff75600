/** The head by one native call, where {@link FusedLayers} are; the best candidates, where any are asked for, by a compiled function. */
import { compile, fusedHead, type Tensor, tf } from '@anneal/tensorflow';
import type { LoraAdapter } from '../lora/adapter.ts';
import type { BaseModel } from '../models/base-model.ts';
import type { HeadOutput, HeadRequest } from './head-outputs.ts';
import type { KeptAdapters } from './kept-adapters.ts';

export class FusedHead {
  readonly #base: BaseModel;
  readonly #adapters: KeptAdapters;

  /** @param base One for which `layersFuse` */
  constructor(base: BaseModel, adapters: KeptAdapters) {
    this.#base = base;
    this.#adapters = adapters;
  }

  /**
   * @param x [rows, 1, hidden], before the final norm
   * @param rows Adapter of each row
   */
  run(
    x: Tensor,
    rows: (LoraAdapter | undefined)[],
    { temperature, draws, candidates }: HeadRequest,
  ): HeadOutput {
    const { config, finalNorm, head, matmulPrecision } = this.#base;
    const { logits, ...results } = fusedHead({
      x,
      norm: finalNorm,
      weight: head,
      normEps: config.normEps,
      bfloat16Products: matmulPrecision === 'bf16',
      ...this.#adapters.of(rows),
      temperatures: temperature,
      draws: Float64Array.from(draws, (draw) => draw?.uniform ?? -1),
    });
    return { ...results, logits, ...best(logits, candidates) };
  }
}

const topk = compile('sample_top', ({ logits, count }: { logits: Tensor; count: number }) => {
  const { indices, values } = tf.topk(logits, count, true);
  return { indices, values };
});

function best(logits: Tensor, count: number): Pick<HeadOutput, 'topIds' | 'topLogits'> {
  if (count === 0) return { topIds: new Int32Array(0), topLogits: new Float32Array(0) };
  const { indices, values } = topk({ logits, count }) as { indices: Tensor; values: Tensor };
  const read = {
    topIds: indices.dataSync() as Int32Array,
    topLogits: values.dataSync() as Float32Array,
  };
  tf.dispose([indices, values]);
  return read;
}

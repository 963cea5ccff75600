/** What sampling reads off the last hidden states: logits, the greedy token, a draw, the best candidates. */
import { type FusedHeadResults, statelessUniform, type Tensor, type Tree, tf } from '@anneal/tensorflow';
import { linear } from '../layers/linear.ts';
import type { BaseModel } from '../models/base-model.ts';

export interface HeadTree {
  [key: string]: Tree;
  /** [slots, 1, hidden], before the final norm */
  x: Tensor;
  norm: Tensor;
  weight: Tensor;
  lora: { a: Tensor; b: Tensor; scale: number } | undefined;
  /** [slots, 1]; ignored for greedy rows */
  temperature: Tensor;
  /** int32 [slots, 2]: what each row's random numbers are made from */
  seeds: Tensor;
  /** Whether any row draws by temperature alone. */
  draws: boolean;
  /** Best candidates to return per row; 0 for none. */
  candidates: number;
}

/** What decides a row's draw by temperature alone. */
export interface Draw {
  /** In [0, 1) */
  uniform: number;
  /** What a device makes noise for each id from. */
  seeds: [number, number];
}

/** What a step wants of the head, for each row. */
export interface HeadRequest {
  /** 1 for greedy rows */
  temperature: Float32Array;
  /** Undefined where no token is to be drawn, or not by temperature alone. */
  draws: (Draw | undefined)[];
  /** Best candidates to return per row; 0 for none. */
  candidates: number;
}

/** What is read per row after a step; `drawn` and what belongs to it may be empty where no row draws. */
export interface HeadOutput extends FusedHeadResults {
  /** [slots, vocab], on the device; the caller frees it. */
  logits: Tensor;
  /** [slots, candidates], best first. */
  topIds: Int32Array;
  topLogits: Float32Array;
}

/** The compiled part: everything above that `HeadTree` asks for, as [slots, …] tensors. */
export function headOutputs(
  { x, norm, weight, lora, temperature, seeds, draws, candidates }: HeadTree,
  base: BaseModel,
): { [key: string]: Tensor } {
  const [rows, , hidden] = x.shape as [number, number, number];
  const h = base.architecture.finalNorm(base.config, tf.reshape(x, [rows, hidden]), norm);
  const vocab = weight.shape[0] as number;
  const logits = tf.reshape(linear(tf.reshape(h, [rows, 1, hidden]), weight, lora), [rows, vocab]);
  const best = tf.max(logits, -1, true);
  const shifted = tf.sub(logits, best);
  const outputs: { [key: string]: Tensor } = {
    logits,
    argmax: tf.expandDims(tf.argMax(logits, -1), 1),
    argmaxLogit: best,
    logTotal: tf.add(tf.log(tf.sum(tf.exp(shifted), -1, true)), best),
  };
  if (draws) {
    outputs.drawn = gumbelMax(tf.div(shifted, temperature), seeds);
    outputs.drawnLogit = tf.gather(logits, outputs.drawn as never, 1, 1);
  }
  if (candidates > 0) {
    const top = tf.topk(logits, candidates, true);
    outputs.topIds = top.indices;
    outputs.topLogits = top.values;
    outputs.mass = tf.sum(tf.exp(tf.div(shifted, temperature)), -1, true);
  }
  return outputs;
}

/**
 * Draws one id per row from softmax(scores): argmax of scores plus Gumbel noise (Gumbel 1954). Noise belongs to the id, so
 * that rounding, which differs with the batch, moves a draw only where two ids nearly tie; with running sums it would
 * where any of tens of thousands of borders shifts.
 * @param scores [rows, vocab]
 * @returns int32 [rows, 1]
 */
function gumbelMax(scores: Tensor, seeds: Tensor): Tensor {
  const [rows, vocab] = scores.shape as [number, number];
  const noise = Array.from({ length: rows }, (_, row) => {
    const uniform = statelessUniform([2, vocab], tf.reshape(tf.slice(seeds, [row, 0], [1, 2]), [2]));
    const [coarse, fine] = tf.unstack(uniform) as [Tensor, Tensor];
    // float32 uniforms are multiples of 2⁻²³: the second fills in the digits that the smallest, which decide, lack.
    const exponential = tf.neg(tf.log1p(tf.neg(tf.add(coarse, tf.mul(fine, 2 ** -23)))));
    return tf.neg(tf.log(tf.maximum(exponential, 1e-30)));
  });
  return tf.expandDims(tf.argMax(tf.add(scores, tf.stack(noise)), -1), 1);
}

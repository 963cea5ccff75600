/** Scaled dot-product attention with grouped keys and values (Ainslie et al. 2023, arXiv:2305.13245). */
import { type Tensor, tf } from '@anneal/tensorflow';

/** Large enough to vanish in a softmax, small enough never to overflow when scores are added to it. */
export const MASKED = -1e9;

/** Computes what a layer attends to; the caller decides about masks and caches. Shapes as in {@link attend}. */
export type AttendFn = (q: Tensor, k: Tensor, v: Tensor) => Tensor;

/** [batch, time, heads · dim] → [batch, heads, time, dim] */
export function splitHeads(x: Tensor, heads: number): Tensor {
  const [batch, time, width] = x.shape as [number, number, number];
  return tf.transpose(tf.reshape(x, [batch, time, heads, width / heads]), [0, 2, 1, 3]);
}

/** [batch, heads, time, dim] → [batch, time, heads · dim] */
export function mergeHeads(x: Tensor): Tensor {
  const [batch, heads, time, dim] = x.shape as [number, number, number, number];
  return tf.reshape(tf.transpose(x, [0, 2, 1, 3]), [batch, time, heads * dim]);
}

/**
 * Scores of queries against keys. Query heads that share a key head are laid side by side, so keys are never repeated.
 * @param q [batch, heads, time, dim]
 * @param k [batch, kvHeads, keys, dim]
 * @returns [batch, heads, time, keys]
 */
export function attentionScores(q: Tensor, k: Tensor, scale: number): Tensor {
  const [batch, heads, time, dim] = q.shape as [number, number, number, number];
  const [, kvHeads, keys] = k.shape as [number, number, number, number];
  const grouped = tf.reshape(tf.mul(q, scale), [batch, kvHeads, (heads / kvHeads) * time, dim]);
  return tf.reshape(tf.matMul(grouped as never, k as never, false, true), [batch, heads, time, keys]);
}

/**
 * Mixes values by probabilities.
 * @param probabilities [batch, heads, time, keys]
 * @param v [batch, kvHeads, keys, dim]
 * @returns [batch, heads, time, dim]
 */
export function attentionMix(probabilities: Tensor, v: Tensor): Tensor {
  const [batch, heads, time, keys] = probabilities.shape as [number, number, number, number];
  const [, kvHeads, , dim] = v.shape as [number, number, number, number];
  const grouped = tf.reshape(probabilities, [batch, kvHeads, (heads / kvHeads) * time, keys]);
  return tf.reshape(tf.matMul(grouped as never, v as never), [batch, heads, time, dim]);
}

/**
 * softmax(scale · q kᵀ + mask) v.
 * @param q [batch, heads, time, dim]
 * @param k [batch, kvHeads, keys, dim]
 * @param v as k
 * @param mask broadcastable to [batch, heads, time, keys]; 0 or {@link MASKED}
 * @returns [batch, heads, time, dim]
 */
export function attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: number): Tensor {
  return attentionMix(tf.softmax(tf.add(attentionScores(q, k, scale), mask)), v);
}

/**
 * Lower-triangular mask [1, 1, time, time], on the host: large masks travel as inputs, not as constants.
 * @param window Positions that a query sees, its own included
 */
export function causalMaskValues(time: number, window = time): Float32Array {
  const values = new Float32Array(time * time);
  for (let row = 0; row < time; row++) {
    values.fill(MASKED, row * time, row * time + Math.max(0, row + 1 - window));
    values.fill(MASKED, row * time + row + 1, (row + 1) * time);
  }
  return values;
}

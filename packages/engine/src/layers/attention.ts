/** Scaled dot-product attention with grouped keys and values (Ainslie et al. 2023, arXiv:2305.13245). */
import { type Tensor, tf } from '@anneal/tensorflow';

/** Large enough to vanish in a softmax, small enough never to overflow when scores are added to it. */
export const MASKED = -1e9;

/** Queries of a block in {@link attendCausally}: enough rows for the products, few enough to leave out most of what is masked. */
const QUERY_BLOCK = 256;

export interface AttendOptions {
  /** A further logit per head that takes its share of the softmax and mixes nothing, [heads]. */
  sinks?: Tensor;
  /** What to cache instead of k and v, where a layer reads its cache in another form; shapes as the family's cache has them. */
  cached?: { k: Tensor; v: Tensor };
}

/** Computes what a layer attends to; the caller decides about masks and caches. Shapes as in {@link attend}. */
export type AttendFn = (q: Tensor, k: Tensor, v: Tensor, options?: AttendOptions) => Tensor;

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
 * @param v [batch, kvHeads, keys, value dim]
 * @returns [batch, heads, time, value dim]
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
 * @param v [batch, kvHeads, keys, value dim]
 * @param mask broadcastable to [batch, heads, time, keys]; 0 or {@link MASKED}
 * @param sinks [heads], see {@link AttendOptions}
 * @returns [batch, heads, time, value dim]
 */
export function attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: number, sinks?: Tensor): Tensor {
  const scores = tf.add(attentionScores(q, k, scale), mask);
  if (!sinks) return attentionMix(tf.softmax(scores), v);
  const [, heads, , keys] = scores.shape as [number, number, number, number];
  return attentionMix(softmaxWithSinks(scores, tf.reshape(sinks, [1, heads, 1, 1]), keys), v);
}

/**
 * {@link attend} where no position sees a later one. Queries go in blocks, each against the keys up to its own end: half of the work,
 * and half of the probabilities to keep.
 * @param q, k, v of the same positions
 * @param mask [1 or batch, 1, time, time], causal
 */
export function attendCausally(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  mask: Tensor,
  scale: number,
  sinks?: Tensor,
): Tensor {
  const time = q.shape[2] as number;
  if (time < 2 * QUERY_BLOCK) return attend(q, k, v, mask, scale, sinks);
  const blocks: Tensor[] = [];
  for (let start = 0; start < time; start += QUERY_BLOCK) {
    const end = Math.min(time, start + QUERY_BLOCK);
    const queries = positions(q, start, end);
    const seen = tf.slice(mask, [0, 0, start, 0], [-1, -1, end - start, end]) as Tensor;
    blocks.push(attend(queries, positions(k, 0, end), positions(v, 0, end), seen, scale, sinks));
  }
  return tf.concat(blocks, 2) as Tensor;
}

/** Positions `start` to `end` of [batch, heads, time, dim]. */
function positions(x: Tensor, start: number, end: number): Tensor {
  return tf.slice(x, [0, 0, start, 0], [-1, -1, end - start, -1]) as Tensor;
}

/**
 * Softmax over the last axis in which a sink takes part and is left out of the result (Xiao et al. 2023, arXiv:2309.17453).
 * @param scores [..., keys]
 * @param sinks broadcastable to [..., 1]
 */
export function softmaxWithSinks(scores: Tensor, sinks: Tensor, keys: number): Tensor {
  const column = tf.broadcastTo(sinks, [...scores.shape.slice(0, -1), 1]);
  const [onKeys] = tf.split(tf.softmax(tf.concat([scores, column], -1)), [keys, 1], -1);
  return onKeys as Tensor;
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

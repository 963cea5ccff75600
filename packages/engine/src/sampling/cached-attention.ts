/** Attention to what a cache holds, and the layouts in which it holds it. */
import { type CachedAttentionInputs, cachedAttention, type Tensor, tf } from '@anneal/tensorflow';
import { MASKED, softmaxWithSinks } from '../layers/attention.ts';
import type { KeysAndValues } from './cached-rows.ts';

/** [rows, kvHeads, width, dim] → [kvHeads, rows · width, dim], as the cache gathers from it. */
export function headMajorRows(x: Tensor): Tensor {
  const [rows, kvHeads, width, dim] = x.shape as [number, number, number, number];
  return tf.reshape(tf.transpose(x, [1, 0, 2, 3]), [kvHeads, rows * width, dim]);
}

/** [heads, capacity, dim] and then, for one row, [1, heads, width, dim]: [1, heads, capacity + width, dim]. */
export function after(past: Tensor, fresh: Tensor): Tensor {
  return tf.concat([tf.expandDims(past, 0), fresh], 2);
}

/** For queries at `length` and on: 0 where they may look, among kept and then new positions, {@link MASKED} elsewhere. */
export function extensionMask(
  capacity: number,
  length: number,
  width: number,
  window = Number.POSITIVE_INFINITY,
): Float32Array {
  const columns = capacity + width;
  const values = new Float32Array(width * columns).fill(MASKED);
  for (let row = 0; row < width; row++) {
    const first = Math.max(0, length + row + 1 - window);
    const at = row * columns;
    values.fill(0, at + Math.min(first, length), at + length);
    values.fill(0, at + capacity + Math.max(0, first - length), at + capacity + row + 1);
  }
  return values;
}

/** Puts this step's keys or values [slots, kvHeads, 1, dim] at their place in the window [kvHeads, slots, steps, dim]. */
export function writeRecent(recent: Tensor, fresh: Tensor, place: Tensor): Tensor {
  return tf.add(tf.mul(recent, tf.sub(1, place)), tf.mul(tf.transpose(fresh, [1, 0, 2, 3]), place));
}

/**
 * Attention of one query per slot over past and recent keys, without joining them.
 * @param q [slots, heads, 1, dim]
 * @param sinks [heads]
 * @returns [slots, heads, 1, value dim]
 */
export function attendCached(
  q: Tensor,
  past: KeysAndValues,
  recent: KeysAndValues,
  masks: { past: Tensor; recent: Tensor },
  scale: number,
  sinks: Tensor | undefined,
): Tensor {
  const [slots, heads, , dim] = q.shape as [number, number, number, number];
  const kvHeads = past.k.shape[0] as number;
  // The cache has heads first, so heads play the batch here and the slots' query groups the heads.
  const grouped = tf.transpose(tf.reshape(q, [slots, kvHeads, heads / kvHeads, dim]), [1, 0, 2, 3]);
  const inputs = { q: tf.mul(grouped, scale) as Tensor, past, recent, masks, sinks };
  const mixed = cachedAttention(inputs) ?? composedAttention(inputs);
  const valueDim = past.v.shape[3] as number;
  return tf.reshape(tf.transpose(mixed, [1, 0, 2, 3]), [slots, heads, 1, valueDim]);
}

/** As `cachedAttention`, of ops that every backend has. */
export function composedAttention({ q, past, recent, masks, sinks }: CachedAttentionInputs): Tensor {
  const [kvHeads, , group] = q.shape as [number, number, number];
  const scores = tf.concat(
    [tf.add(scoresOf(q, past.k), masks.past), tf.add(scoresOf(q, recent.k), masks.recent)],
    -1,
  );
  const [capacity, window] = [past.k.shape[2] as number, recent.k.shape[2] as number];
  const probabilities = sinks
    ? softmaxWithSinks(scores, tf.reshape(sinks, [kvHeads, 1, group, 1]), capacity + window)
    : tf.softmax(scores);
  const [onPast, onRecent] = tf.split(probabilities, [capacity, window], -1) as [Tensor, Tensor];
  return tf.add(tf.matMul(onPast as never, past.v as never), tf.matMul(onRecent as never, recent.v as never));
}

/** [kvHeads, slots, group, dim] × [kvHeads, slots, keys, dim] → [kvHeads, slots, group, keys] */
function scoresOf(q: Tensor, k: Tensor): Tensor {
  return tf.matMul(q as never, k as never, false, true);
}

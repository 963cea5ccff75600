/**
 * Multi-head latent attention (DeepSeek-V2 2024, arXiv:2405.04434): keys and values of all heads come from one small vector
 * per position, which is all that a cache keeps, beside a rotated part of the key that heads share.
 */
import { type Tensor, tf } from '@anneal/tensorflow';
import { type AttendFn, splitHeads } from './attention.ts';
import { type LoraTensors, linear } from './linear.ts';

export interface LatentAttentionInput {
  /** [batch, heads, time, key dim] and, rotated, [batch, heads, time, rope dim] */
  q: Tensor;
  qRotated: Tensor;
  /** [batch, time, latent] */
  latent: Tensor;
  /** [batch, 1, time, rope dim] */
  kRotated: Tensor;
  /** Latent → keys and values of each head, [heads · (key dim + value dim), latent] */
  expand: Tensor;
  lora: LoraTensors | undefined;
  attend: AttendFn;
  /** Attends to cached latents. */
  decoding: boolean;
}

/** [batch, heads, time, value dim] */
export function latentAttention(input: LatentAttentionInput): Tensor {
  return input.decoding ? attendLatents(input) : attendExpanded(input);
}

/** Keys and values are made of the latents once: the cheaper way where queries are many. */
function attendExpanded(input: LatentAttentionInput): Tensor {
  const { q, qRotated, latent, kRotated, expand, lora, attend } = input;
  const [batch, heads, time, keyDim] = q.shape as [number, number, number, number];
  const keysAndValues = splitHeads(linear(latent, expand, lora), heads);
  const valueDim = (keysAndValues.shape[3] as number) - keyDim;
  const [k, v] = tf.split(keysAndValues, [keyDim, valueDim], -1) as [Tensor, Tensor];
  const shared = tf.broadcastTo(kRotated, [batch, heads, time, kRotated.shape[3] as number]);
  return attend(tf.concat([q, qRotated], -1), tf.concat([k, shared], -1), v, { cached: cachedForm(input) });
}

/** What the cache keeps: as keys [latent, rotated], as values the latents, for one head. */
function cachedForm({ latent, kRotated }: LatentAttentionInput): { k: Tensor; v: Tensor } {
  const oneHead = tf.expandDims(latent, 1);
  return { k: tf.concat([oneHead, kRotated], -1), v: oneHead };
}

/**
 * Attention among the latents themselves: q · (W c) = (Wᵀ q) · c, so the key map is applied to the query, and the value map
 * to what was mixed: the cheaper way where queries are few.
 */
function attendLatents(input: LatentAttentionInput): Tensor {
  const { q, qRotated, latent, expand, lora, attend } = input;
  const [, heads, , keyDim] = q.shape as [number, number, number, number];
  const maps = perHead(expand, heads, keyDim);
  const low = lora && { a: lora.a, scale: lora.scale, ...perHead(lora.b, heads, keyDim) };
  const { k, v } = cachedForm({ ...input, latent });
  let query = throughHeads(q, maps.key, false);
  if (low)
    query = tf.add(query, tf.mul(intoLatent(throughHeads(q, low.key, false), low.a, false), low.scale));
  const mixed = attend(tf.concat([query, qRotated], -1), k, v);
  const values = throughHeads(mixed, maps.value, true);
  if (!low) return values;
  const reduced = tf.mul(intoLatent(mixed, low.a, true), low.scale);
  return tf.add(values, throughHeads(reduced, low.value, true));
}

/** [..., heads · (key + value), width] → the key and value rows of each head, [..., heads, rows, width]. */
function perHead(matrix: Tensor, heads: number, keyDim: number): { key: Tensor; value: Tensor } {
  const [rows, width] = matrix.shape.slice(-2) as [number, number];
  const split = tf.reshape(matrix, [...matrix.shape.slice(0, -2), heads, rows / heads, width]);
  const [key, value] = tf.split(split, [keyDim, rows / heads - keyDim], -2) as [Tensor, Tensor];
  return { key, value };
}

/**
 * Each head's own matrix: x [batch, heads, time, in] times matrices [heads, in, out], or [batch, heads, in, out] with one per
 * batch row; [.., out, in] if `transposed`.
 */
function throughHeads(x: Tensor, matrices: Tensor, transposed: boolean): Tensor {
  if (matrices.rank === 4) return tf.matMul(x as never, matrices as never, false, transposed);
  const [batch, heads, time, width] = x.shape as [number, number, number, number];
  const byHead = tf.reshape(tf.transpose(x, [1, 0, 2, 3]), [heads, batch * time, width]);
  const y = tf.matMul(byHead as never, matrices as never, false, transposed) as Tensor;
  return tf.transpose(tf.reshape(y, [heads, batch, time, y.shape[2] as number]), [1, 0, 2, 3]);
}

/** x [batch, heads, time, in] times a [in, out] or [batch, in, out]; [.., out, in] if `transposed`. */
function intoLatent(x: Tensor, a: Tensor, transposed: boolean): Tensor {
  const [batch, heads, time, width] = x.shape as [number, number, number, number];
  const rows = tf.reshape(x, a.rank === 2 ? [batch * heads * time, width] : [batch, heads * time, width]);
  const y = tf.matMul(rows as never, a as never, false, transposed) as Tensor;
  return tf.reshape(y, [batch, heads, time, y.shape.at(-1) as number]);
}

/** Linear maps as checkpoints store them: weight [out, in], y = x Wᵀ, with an optional low-rank update. */
import { type Tensor, tf } from '@anneal/tensorflow';

/**
 * A LoRA update of one linear map (Hu et al. 2021, arXiv:2106.09685): y += scale · (x Aᵀ) Bᵀ.
 *
 * One adapter for all rows: `a` [rank, in], `b` [out, rank]. One adapter per batch row: `a` [batch, rank, in],
 * `b` [batch, out, rank]. The scale alpha / rank is already multiplied into `a` or `b` by whoever stacks adapters, or
 * applied here when `scale` is given. Several adapters joined: `a` [ranks, in], `b` [out, ranks], and a `mask` that leaves each batch
 * row its own part, times its scale.
 *
 * Experts have one more dimension in front: `a` [experts or 1, rank, in], `b` [experts or 1, out, rank], and with several
 * adapters in a batch [adapters, experts or 1, ...] and `rows`.
 */
export interface LoraTensors {
  a: Tensor;
  b: Tensor;
  scale: number;
  /** Of joined adapters, [batch, 1, ranks]. */
  mask?: Tensor;
  /** Of experts' adapters side by side: which of them each batch row has, int32 [batch]. */
  rows?: Tensor;
}

/**
 * y = x Wᵀ (+ bias) (+ LoRA).
 * @param x [batch, time, in]
 * @param weight [out, in]
 * @returns [batch, time, out]
 */
export function linear(x: Tensor, weight: Tensor, lora?: LoraTensors, bias?: Tensor): Tensor {
  const [batch, time, inFeatures] = x.shape as [number, number, number];
  const outFeatures = weight.shape[0] as number;
  const rows = tf.reshape(x, [batch * time, inFeatures]);
  let y: Tensor = tf.matMul(rows as never, weight as never, false, true);
  if (bias) y = tf.add(y, bias);
  const shaped = tf.reshape(y, [batch, time, outFeatures]);
  return lora ? tf.add(shaped, loraUpdate(x, lora)) : shaped;
}

/**
 * What an adapter adds to a linear map's output.
 * @param x [batch, time, in]
 * @returns [batch, time, out]
 */
export function loraUpdate(x: Tensor, lora: LoraTensors): Tensor {
  if (lora.a.rank === 3) return lowRank(x, lora);
  const [batch, time, inFeatures] = x.shape as [number, number, number];
  const update = lora.mask
    ? ownPart(x, lora, lora.mask)
    : lowRank(tf.reshape(x, [batch * time, inFeatures]), lora);
  return tf.reshape(update, [batch, time, update.shape[1] as number]);
}

/** scale · (x Aᵀ) Bᵀ, batched when A and B have a leading batch dimension. */
function lowRank(x: Tensor, { a, b, scale }: LoraTensors): Tensor {
  const reduced = tf.mul(tf.matMul(x as never, a as never, false, true), scale);
  return tf.matMul(reduced as never, b as never, false, true);
}

/** As {@link lowRank} of joined adapters: [batch · time, out]. */
function ownPart(x: Tensor, { a, b }: LoraTensors, mask: Tensor): Tensor {
  const [batch, time, inFeatures] = x.shape as [number, number, number];
  const ranks = a.shape[0] as number;
  const rows = tf.reshape(x, [batch * time, inFeatures]);
  const reduced = tf.reshape(tf.matMul(rows as never, a as never, false, true), [batch, time, ranks]);
  const own = tf.reshape(tf.mul(reduced, mask), [batch * time, ranks]);
  return tf.matMul(own as never, b as never, false, true);
}

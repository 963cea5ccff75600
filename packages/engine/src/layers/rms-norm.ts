import { type Tensor, tf } from '@anneal/tensorflow';

/**
 * Root mean square norm (Zhang & Sennrich 2019, arXiv:1910.07467) over the last axis.
 * @param x [..., hidden]
 * @param weight [hidden]
 */
export function rmsNorm(x: Tensor, weight: Tensor, eps: number): Tensor {
  const inverse = tf.rsqrt(tf.add(tf.mean(tf.square(x), -1, true), eps));
  return tf.mul(tf.mul(x, inverse), weight);
}

/** {@link rmsNorm} of checkpoints that store the weight's distance from one. */
export function rmsNormAroundOne(x: Tensor, weight: Tensor, eps: number): Tensor {
  return rmsNorm(x, tf.add(weight, 1), eps);
}

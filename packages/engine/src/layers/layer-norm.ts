import { type Tensor, tf } from '@anneal/tensorflow';

/**
 * Layer norm (Ba et al. 2016, arXiv:1607.06450) over the last axis.
 * @param x [..., hidden]
 * @param weight [hidden]
 * @param bias [hidden]
 */
export function layerNorm(x: Tensor, weight: Tensor, bias: Tensor, eps: number): Tensor {
  const centred = tf.sub(x, tf.mean(x, -1, true));
  const inverse = tf.rsqrt(tf.add(tf.mean(tf.square(centred), -1, true), eps));
  return tf.add(tf.mul(tf.mul(centred, inverse), weight), bias);
}

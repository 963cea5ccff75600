/** The gated feed-forward block of today's decoders (Shazeer 2020, arXiv:2002.05202). */
import { type Tensor, tf } from '@anneal/tensorflow';
import { type LoraTensors, linear } from './linear.ts';

export type Activation = (x: Tensor) => Tensor;

/** x · sigmoid(x) */
export const silu: Activation = (x) => tf.mul(x, tf.sigmoid(x));

/** GELU by its tanh approximation (Hendrycks & Gimpel 2016, arXiv:1606.08415). */
export const geluTanh: Activation = (x) => {
  const cubic = tf.add(x, tf.mul(tf.mul(tf.square(x), x), 0.044715));
  return tf.mul(tf.mul(x, 0.5), tf.add(tf.tanh(tf.mul(cubic, Math.sqrt(2 / Math.PI))), 1));
};

/**
 * down(activation(gate(x)) · up(x)).
 * @param x [batch, time, hidden]
 * @param weights `gate` and `up` [intermediate, hidden], `down` [hidden, intermediate]; other keys are not looked at
 * @param lora Adapters under the same keys
 */
export function gatedMlp(
  x: Tensor,
  weights: Record<string, Tensor>,
  lora: Record<string, LoraTensors>,
  activation: Activation = silu,
): Tensor {
  const gate = activation(linear(x, weights.gate!, lora.gate));
  return linear(tf.mul(gate, linear(x, weights.up!, lora.up)), weights.down!, lora.down);
}

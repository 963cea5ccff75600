/** The gated feed-forward block of today's decoders (Shazeer 2020, arXiv:2002.05202). */
import { type Tensor, tf } from '@anneal/tensorflow';
import { type LoraTensors, linear } from './linear.ts';

export type Activation = (x: Tensor) => Tensor;

/** x · sigmoid(x) */
export const silu: Activation = (x) => tf.mul(x, tf.sigmoid(x));

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

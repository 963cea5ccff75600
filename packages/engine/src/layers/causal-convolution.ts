/** A short convolution over positions, each channel by itself, in which no position sees a later one. */
import { type Tensor, tf } from '@anneal/tensorflow';

export interface Convolved {
  /** [batch, time, channels] */
  y: Tensor;
  /** All inputs that were looked at, [batch, kernel - 1 + time, channels]. */
  seen: Tensor;
}

/**
 * @param x [batch, time, channels]
 * @param kernel [channels, 1, kernel], the last tap on a position itself, as checkpoints have it
 * @param before The inputs of the kernel - 1 positions before, [batch, kernel - 1, channels]; zeros at a sequence's beginning
 */
export function causalConvolution(x: Tensor, kernel: Tensor, before?: Tensor): Convolved {
  const [batch, time, channels] = x.shape as [number, number, number];
  const size = kernel.shape[2] as number;
  const earlier = before ?? tf.zeros([batch, size - 1, channels]);
  const seen = tf.concat([earlier, x], 1) as Tensor;
  const taps = tf.unstack(tf.reshape(kernel, [channels, size]), 1);
  const parts = taps.map((tap, i) => tf.mul(tf.slice(seen, [0, i, 0], [batch, time, channels]), tap));
  return { y: parts.reduce((sum, part) => tf.add(sum, part)) as Tensor, seen };
}

/**
 * The inputs that the next position's convolution begins with.
 * @param lengths int32 [batch], the positions of each row that count; undefined: all
 * @returns [batch, kernel - 1, channels]
 */
export function lastInputs(seen: Tensor, kernelSize: number, lengths?: Tensor): Tensor {
  const [batch, positions, channels] = seen.shape as [number, number, number];
  const count = kernelSize - 1;
  if (!lengths) return tf.slice(seen, [0, positions - count, 0], [batch, count, channels]);
  const index = tf.add(tf.expandDims(lengths, 1), tf.range(0, count, 1, 'int32'));
  return tf.gather(seen, index as never, 1, 1);
}

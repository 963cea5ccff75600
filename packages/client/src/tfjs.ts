/** Custom losses written in TensorFlow.js, whose gradient it finds itself. Brings no TensorFlow: pass yours. */
import type { Datum } from '@anneal/types';
import type { CustomLossFn, Logprobs } from './custom-loss.ts';

/** What is used of a tensor. */
interface TensorLike {
  readonly shape: number[];
  data(): Promise<ArrayLike<number>>;
  dispose(): void;
}

/** What is used of `@tensorflow/tfjs`, `tfjs-core` or `tfjs-node`. */
export interface TensorFlowLike<T extends TensorLike> {
  tensor(values: Float32Array, shape: number[], dtype: 'float32'): T;
  valueAndGrads(fn: (...args: T[]) => T): (args: T[]) => { grads: T[]; value: T };
}

/** A scalar loss, or the loss with metrics beside it. */
export type TensorLoss<T> = T | { loss: T; metrics?: Record<string, number> };

/**
 * A loss for `forwardBackwardCustom` from a function of tensors.
 *
 * @param tf the TensorFlow.js to compute with
 * @param fn gives a scalar from the batch and its logprobs (a tensor [T] or [T, K] per datum)
 * @example
 * const nll = tensorLoss(tf, (data, logprobs) => tf.neg(tf.addN(logprobs.map((lp) => tf.sum(lp)))));
 * await client.forwardBackwardCustom(data, nll);
 */
export function tensorLoss<T extends TensorLike>(
  tf: TensorFlowLike<T>,
  fn: (data: Datum[], logprobs: T[]) => TensorLoss<T>,
): CustomLossFn {
  return async (data, logprobs) => {
    let metrics: Record<string, number> | undefined;
    const inputs = logprobs.map(({ data: values, shape }: Logprobs) => tf.tensor(values, shape, 'float32'));
    const differentiate = tf.valueAndGrads((...tensors) => {
      const result = fn(data, tensors);
      if (!('loss' in result)) return result;
      metrics = result.metrics;
      return result.loss;
    });
    const { value, grads } = differentiate(inputs);
    const loss = (await value.data())[0] ?? Number.NaN;
    const gradients = await Promise.all(grads.map(async (grad) => Float32Array.from(await grad.data())));
    for (const tensor of [...inputs, ...grads, value]) tensor.dispose();
    return { loss, gradients, metrics };
  };
}

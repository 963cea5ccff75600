/** Losses computed by the caller: the server gives logprobs, the caller gives the loss and its gradient. */
import {
  Datum,
  type ForwardBackwardOutput,
  type NestedArray,
  nestedShape,
  TensorData,
  type TypedValues,
} from '@anneal/types';

/** Logprobs of one datum's `target_tokens`, row-major. */
export interface Logprobs {
  data: Float32Array;
  /** [T] or [T, K]. */
  shape: number[];
}

/** What a custom loss gives back. */
export interface CustomLossResult {
  /** Shown as the metric `loss:sum`. */
  loss: number;
  /** dLoss/dlogprobs of each datum, in the shape of its logprobs. */
  gradients: readonly (TypedValues | NestedArray)[];
  /** Shown beside the server's metrics. */
  metrics?: Record<string, number>;
}

/** A loss over the logprobs of a whole batch. */
export type CustomLossFn = (
  data: Datum[],
  logprobs: Logprobs[],
) => CustomLossResult | Promise<CustomLossResult>;

/** A loss that the server runs, from `ServiceClient.createCustomLoss`. */
export interface LossHandle {
  readonly sessionId: string;
  readonly name: string;
  readonly lossId: string;
}

/** What the first pass sends: targets and weights (zeros without any); other inputs stay with the caller. */
export function forwardDatum(datum: Datum, index: number): Datum {
  const { target_tokens, weights } = datum.loss_fn_inputs;
  if (!target_tokens) throw new TypeError(`data[${index}].loss_fn_inputs lacks target_tokens`);
  const zeros: TensorData = {
    ...target_tokens,
    dtype: 'float32',
    data: new Float32Array(target_tokens.data.length),
  };
  return { ...datum, loss_fn_inputs: { target_tokens, weights: weights ?? zeros } };
}

/** The logprobs of a result, one entry per datum. */
export function logprobsOf(output: ForwardBackwardOutput): Logprobs[] {
  return output.loss_fn_outputs.map(({ logprobs }, index) => {
    if (!logprobs) throw new TypeError(`the server sent no logprobs for datum ${index}`);
    const { shape, data } = TensorData.toTyped(logprobs);
    return { shape, data: Float32Array.from(data as Float32Array) };
  });
}

function flatGradient(gradient: TypedValues | NestedArray, { shape }: Logprobs, index: number): Float32Array {
  const tensor = ArrayBuffer.isView(gradient)
    ? TensorData.fromTyped(gradient)
    : TensorData.fromArray(gradient, 'float32');
  const given = ArrayBuffer.isView(gradient) ? undefined : nestedShape(gradient);
  const size = shape.reduce((product, dimension) => product * dimension, 1);
  if (tensor.data.length !== size || (given && given.length > 1 && given.join() !== shape.join())) {
    throw new RangeError(
      `gradients[${index}] has shape [${given ?? tensor.data.length}], its logprobs [${shape}]`,
    );
  }
  return Float32Array.from(tensor.data);
}

/**
 * What the second pass sends. Cross-entropy is -sum(weights * logprobs), so weights of -dLoss/dlogprobs give the server
 * the gradient of the caller's loss.
 *
 * @throws RangeError when a gradient is missing or has another shape than its logprobs.
 */
export function backwardData(data: Datum[], logprobs: Logprobs[], result: CustomLossResult): Datum[] {
  if (!Number.isFinite(result.loss)) throw new RangeError(`the custom loss is ${result.loss}`);
  if (result.gradients.length !== data.length) {
    throw new RangeError(
      `the custom loss gave ${result.gradients.length} gradients for ${data.length} datums`,
    );
  }
  return data.map((datum, index) => {
    const { shape } = logprobs[index]!;
    const weights = flatGradient(result.gradients[index]!, logprobs[index]!, index).map((value) => -value);
    const target_tokens = datum.loss_fn_inputs.target_tokens!;
    return Datum.parse({
      ...datum,
      loss_fn_inputs: { target_tokens, weights: { data: weights, dtype: 'float32', shape } },
    });
  });
}

/** The second pass's result, with the caller's loss and metrics in front. */
export function withCustomLoss(
  output: ForwardBackwardOutput,
  result: CustomLossResult,
): ForwardBackwardOutput {
  const { 'loss:sum': surrogate, ...metrics } = output.metrics;
  return {
    ...output,
    metrics: {
      ...metrics,
      ...result.metrics,
      'loss:sum': result.loss,
      ...(surrogate !== undefined && { 'surrogate_loss:sum': surrogate }),
    },
  };
}

import * as z from 'zod';
import { TensorData } from './tensor-data.ts';

/** One datum's outputs by name; `logprobs` has the shape of `target_tokens`. */
export const LossFnOutput = z.record(z.string(), TensorData).meta({ id: 'LossFnOutput' });

export type LossFnOutput = z.infer<typeof LossFnOutput>;

/** Result of a forward or forward and backward pass. */
export const ForwardBackwardOutput = z
  .object({
    /** Class name of the records, for example `TorchLossReturn` or `ArrayRecord`. */
    loss_fn_output_type: z.string(),
    /** One per datum, in request order. */
    loss_fn_outputs: z.array(LossFnOutput),
    /** Keys are `name:reduction`, for example `loss:sum`. */
    metrics: z.record(z.string(), z.number()).default({}),
  })
  .meta({ id: 'ForwardBackwardOutput' });

export type ForwardBackwardOutput = z.infer<typeof ForwardBackwardOutput>;

import * as z from 'zod';
import { ForwardBackwardInput } from './forward-backward-input.ts';
import { ModelId } from './ids.ts';
import { Counter } from './integers.ts';

/** JSON form of a forward and backward pass; SDKs from 0.25 on send protobuf instead. */
export const ForwardBackwardRequest = z
  .strictObject({
    forward_backward_input: ForwardBackwardInput,
    model_id: ModelId,
    seq_id: Counter.nullish(),
  })
  .meta({ id: 'ForwardBackwardRequest' });

export type ForwardBackwardRequest = z.infer<typeof ForwardBackwardRequest>;

/** JSON form of a forward pass without gradients; SDKs from 0.25 on send protobuf with `forward_only`. */
export const ForwardRequest = z
  .strictObject({ forward_input: ForwardBackwardInput, model_id: ModelId, seq_id: Counter.nullish() })
  .meta({ id: 'ForwardRequest' });

export type ForwardRequest = z.infer<typeof ForwardRequest>;

import * as z from 'zod';
import { AdamParams } from './adam-params.ts';
import { ModelId } from './ids.ts';
import { Counter } from './integers.ts';
import { DimuonParams } from './optimizer-config.ts';

/** Hyperparameters under the keys that SDKs use for them. */
const OptimParams = z.union([AdamParams, DimuonParams, z.looseObject({ type: z.string() })]);

/** Applies and clears the accumulated gradient. Give exactly one of the three parameter keys. */
export const OptimStepRequest = z
  .strictObject({
    model_id: ModelId,
    seq_id: Counter.nullish(),
    adam_params: AdamParams.optional(),
    /** Other optimizer families, told apart by `type`. */
    optimizer_params: OptimParams.optional(),
    /** Another spelling that servers accept. */
    optim_params: OptimParams.optional(),
    type: z.literal('optim_step').default('optim_step'),
  })
  .refine(
    (request) =>
      [request.adam_params, request.optimizer_params, request.optim_params].filter(Boolean).length === 1,
    { message: 'give exactly one of adam_params, optimizer_params, optim_params' },
  )
  .meta({ id: 'OptimStepRequest' });

export type OptimStepRequest = z.infer<typeof OptimStepRequest>;

/** Result of an optimizer step. */
export const OptimStepResponse = z
  .object({
    metrics: z.record(z.string(), z.number()).nullish(),
    type: z.literal('optim_step').nullish(),
  })
  .meta({ id: 'OptimStepResponse' });

export type OptimStepResponse = z.infer<typeof OptimStepResponse>;

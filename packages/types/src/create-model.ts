import * as z from 'zod';
import { ModelId } from './ids.ts';
import { Counter } from './integers.ts';
import { LoraConfig } from './lora-config.ts';
import { OptimizerConfig } from './optimizer-config.ts';

/** Starts a training run. */
export const CreateModelRequest = z
  .strictObject({
    session_id: z.string().min(1),
    model_seq_id: Counter,
    /** A listed model name, for example `Qwen/Qwen3.5-4B`. */
    base_model: z.string().min(1, 'base_model must name a model that the server lists'),
    /** Shown in the training run. */
    user_metadata: z.record(z.string(), z.unknown()).nullish(),
    lora_config: LoraConfig.nullish(),
    optimizer_config: OptimizerConfig.default({ type: 'adamw' }),
    type: z.literal('create_model').default('create_model'),
  })
  .meta({ id: 'CreateModelRequest' });

export type CreateModelRequest = z.infer<typeof CreateModelRequest>;

/** The model that was made. */
export const CreateModelResponse = z
  .object({ model_id: ModelId, type: z.literal('create_model').default('create_model') })
  .meta({ id: 'CreateModelResponse' });

export type CreateModelResponse = z.infer<typeof CreateModelResponse>;

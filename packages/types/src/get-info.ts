import * as z from 'zod';
import { ModelId } from './ids.ts';
import { OptimizerConfig } from './optimizer-config.ts';

export const GetInfoRequest = z
  .strictObject({ model_id: ModelId, type: z.literal('get_info').default('get_info') })
  .meta({ id: 'GetInfoRequest' });

export type GetInfoRequest = z.infer<typeof GetInfoRequest>;

/** What a model is made of. */
export const ModelData = z
  .object({
    /** Architecture, for example `llama`. */
    arch: z.string().nullish(),
    /** The base model's name. */
    model_name: z.string().nullish(),
    /** Where the tokenizer comes from, a repository name or a folder. */
    tokenizer_id: z.string().nullish(),
  })
  .meta({ id: 'ModelData' });

export type ModelData = z.infer<typeof ModelData>;

export const GetInfoResponse = z
  .object({
    type: z.literal('get_info').nullish(),
    model_data: ModelData,
    model_id: ModelId,
    optimizer_config: OptimizerConfig.default({ type: 'adamw' }),
    is_lora: z.boolean().nullish(),
    lora_rank: z.int().nullish(),
    model_name: z.string().nullish(),
  })
  .meta({ id: 'GetInfoResponse' });

export type GetInfoResponse = z.infer<typeof GetInfoResponse>;

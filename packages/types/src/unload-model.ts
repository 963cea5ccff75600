import * as z from 'zod';
import { ModelId } from './ids.ts';

/** Frees a live model; its checkpoints stay. */
export const UnloadModelRequest = z
  .strictObject({ model_id: ModelId, type: z.literal('unload_model').default('unload_model') })
  .meta({ id: 'UnloadModelRequest' });

export type UnloadModelRequest = z.infer<typeof UnloadModelRequest>;

export const UnloadModelResponse = z
  .object({ model_id: ModelId, type: z.literal('unload_model').nullish() })
  .meta({ id: 'UnloadModelResponse' });

export type UnloadModelResponse = z.infer<typeof UnloadModelResponse>;

import { canCallNatively } from '@anneal/tensorflow';
import type { BaseModel } from './base-model.ts';

/** Whether native calls can compute this model's layers: they are Llama's, and TensorFlow computes on the CPU. */
export function hasNativeLayers({ architecture, config }: BaseModel): boolean {
  return (architecture.hasLlamaLayers ?? false) && config.rope.dim === config.headDim && canCallNatively();
}

import type { EngineImage, VisionInfo } from '../engine.ts';
import type { BaseModel } from '../models/base-model.ts';
import { imageTokens } from './image-processor.ts';

/** The tokens that stand for each image: from `start` to before `end`. None where the model reads no images. */
export function imageSpans(
  { imageProcessor }: BaseModel,
  images: readonly EngineImage[] = [],
): { image: EngineImage; start: number; end: number }[] {
  if (!imageProcessor) return [];
  return images.map((image) => ({
    image,
    start: image.at,
    end: image.at + imageTokens(image, imageProcessor),
  }));
}

/** What a caller needs to lay images into a model's sequences. */
export function visionInfo({ imageProcessor, config }: BaseModel): VisionInfo | undefined {
  if (!imageProcessor || !config.vision) return undefined;
  const { patchSize, mergeSize, minPixels, maxPixels } = imageProcessor;
  return { patchSize, mergeSize, minPixels, maxPixels, imageTokenId: config.vision.imageTokenId };
}

/** Refuses images that do not fit their sequence, before anything is computed. */
import { EngineError, type EngineImage } from '../engine.ts';
import type { BaseModel } from '../models/base-model.ts';
import { imageTokens } from './image-processor.ts';

/**
 * @param field How messages name the sequence, for example `data[0].model_input`.
 * @throws EngineError (user) where the model reads no images, or their places do not hold as many tokens as they take.
 */
export function checkImages(
  field: string,
  { tokens, images = [] }: { tokens: Int32Array; images?: readonly EngineImage[] },
  { imageProcessor, config }: BaseModel,
): void {
  if (images.length === 0) return;
  const refuse = (problem: string) => new EngineError('user', `${field} ${problem}`);
  const id = config.vision?.imageTokenId;
  if (!imageProcessor)
    throw refuse(
      `has an image, but this model (${config.modelType}) has no vision tower: it reads text only.`,
    );
  let end = 0;
  for (const { at, width, height, pixels } of images) {
    if (pixels.length !== 3 * width * height)
      throw refuse(
        `has an image of ${pixels.length} bytes: ${width} × ${height} pixels of RGB take ${3 * width * height}.`,
      );
    const count = imageTokens({ width, height }, imageProcessor);
    const isPlaced = at >= end && tokens.subarray(at, at + count).every((token) => token === id);
    if (!isPlaced || at + count > tokens.length)
      throw refuse(
        `has an image at token ${at}: ${width} × ${height} pixels take ${count} tokens of id ${id} there.`,
      );
    end = at + count;
  }
}

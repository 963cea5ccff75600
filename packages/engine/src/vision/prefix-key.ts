import type { EngineImage } from '../engine.ts';
import type { BaseModel } from '../models/base-model.ts';
import { imageDigest } from './image-encoder.ts';
import { imageSpans } from './image-spans.ts';

/**
 * A prompt as the prefix cache compares it: in place of an image's ids, which all are the same, words of its digest, made
 * negative so that no id is like them.
 */
export function prefixKey(base: BaseModel, prompt: Int32Array, images: readonly EngineImage[]): Int32Array {
  if (images.length === 0) return prompt;
  const key = prompt.slice();
  for (const { image, start, end } of imageSpans(base, images)) {
    const digest = imageDigest(image);
    for (let i = start; i < end; i++)
      key[i] = digest.readInt32LE((4 * (i - start)) % digest.length) | (1 << 31);
  }
  return key;
}

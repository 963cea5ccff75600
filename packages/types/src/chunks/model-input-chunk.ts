import * as z from 'zod';
import { DmelChunk } from './dmel.ts';
import { EncodedTextChunk } from './encoded-text.ts';
import { ImageChunk } from './image.ts';
import { ImageAssetPointerChunk } from './image-asset-pointer.ts';

/** One piece of a model's input. */
export const ModelInputChunk = z
  .discriminatedUnion('type', [EncodedTextChunk, ImageAssetPointerChunk, ImageChunk, DmelChunk])
  .meta({ id: 'ModelInputChunk' });

export type ModelInputChunk = z.infer<typeof ModelInputChunk>;

import * as z from 'zod';
import { Base64Bytes } from '../bytes.ts';

/** An image inside a prompt. */
export const ImageChunk = z
  .strictObject({
    /** The file's bytes; base64 in JSON. */
    data: Base64Bytes,
    format: z.enum(['png', 'jpeg']),
    /** Advisory: the server counts, and fails fast on a mismatch. */
    expected_tokens: z.int().nonnegative().nullish(),
    type: z.literal('image'),
  })
  .meta({ id: 'ImageChunk' });

export type ImageChunk = z.infer<typeof ImageChunk>;

import * as z from 'zod';

/** An image that the server fetches itself. */
export const ImageAssetPointerChunk = z
  .strictObject({
    format: z.enum(['png', 'jpeg']),
    /** Path or URL. */
    location: z.string().min(1),
    /** Advisory: the server counts, and fails fast on a mismatch. */
    expected_tokens: z.int().nonnegative().nullish(),
    type: z.literal('image_asset_pointer'),
  })
  .meta({ id: 'ImageAssetPointerChunk' });

export type ImageAssetPointerChunk = z.infer<typeof ImageAssetPointerChunk>;

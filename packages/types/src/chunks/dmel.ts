import * as z from 'zod';
import { Base64Bytes } from '../bytes.ts';

/** Audio tokens, serialized. */
export const DmelChunk = z
  .strictObject({ dmel: Base64Bytes, type: z.literal('dmel') })
  .meta({ id: 'DmelChunk' });

export type DmelChunk = z.infer<typeof DmelChunk>;

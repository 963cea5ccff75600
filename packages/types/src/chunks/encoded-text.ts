import * as z from 'zod';
import { TokenId } from '../integers.ts';

/** A run of token ids. */
export const EncodedTextChunk = z
  .strictObject({ tokens: z.array(TokenId), type: z.literal('encoded_text') })
  .meta({ id: 'EncodedTextChunk' });

export type EncodedTextChunk = z.infer<typeof EncodedTextChunk>;

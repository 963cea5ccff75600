import type { DecodedChunk } from '@anneal/types';
import { ApiError } from '../errors.ts';

/**
 * Token ids of a model's input.
 *
 * @throws ApiError when a chunk is no text: the served models read nothing else.
 */
export function textTokens(chunks: readonly DecodedChunk[], path: string): Int32Array {
  const texts = chunks.map((chunk, index) => {
    if (chunk.type === 'encoded_text') return chunk.tokens;
    const name = `${path}[${index}]`;
    throw new ApiError('invalid_request', `${name} is of type "${chunk.type}": this model reads text only`);
  });
  if (texts.length === 1 && texts[0]) return texts[0];
  const tokens = new Int32Array(texts.reduce((total, text) => total + text.length, 0));
  let offset = 0;
  for (const text of texts) {
    tokens.set(text, offset);
    offset += text.length;
  }
  return tokens;
}

import type { ModelInput, ModelInputChunk } from '@anneal/types';
import type * as z from 'zod';

/** Bytes of a token id in JSON, with its comma. */
const BYTES_PER_TOKEN = 10;

function chunkBytes(chunk: z.input<typeof ModelInputChunk>): number {
  switch (chunk.type) {
    case 'encoded_text':
      return BYTES_PER_TOKEN * chunk.tokens.length;
    case 'image':
      return chunk.data.length;
    case 'dmel':
      return chunk.dmel.length;
    default:
      return chunk.location.length;
  }
}

/** Bytes that a prompt needs in a request, roughly. */
export function promptBytes(prompt: z.input<typeof ModelInput>): number {
  return prompt.chunks.reduce((total, chunk) => total + chunkBytes(chunk), 0);
}

import * as z from 'zod';
import type { EncodedTextChunk } from './chunks/encoded-text.ts';
import { ModelInputChunk } from './chunks/model-input-chunk.ts';

const schema = z
  .strictObject({ chunks: z.array(ModelInputChunk) })
  .meta({ id: 'ModelInput', description: 'What a model reads: chunks, in order' });

export type ModelInput = z.infer<typeof schema>;

const textChunk = (tokens: number[]): EncodedTextChunk => ({ tokens, type: 'encoded_text' });

/** An input without chunks. */
function empty(): ModelInput {
  return { chunks: [] };
}

/** An input of one text chunk. */
function fromInts(tokens: Iterable<number>): ModelInput {
  return { chunks: [textChunk([...tokens])] };
}

/**
 * All token ids, in order.
 *
 * @throws TypeError when a chunk is not text.
 */
function toInts(input: ModelInput): number[] {
  return input.chunks.flatMap((chunk, index) => {
    if (chunk.type === 'encoded_text') return chunk.tokens;
    throw new TypeError(`chunk ${index} is ${chunk.type}: only encoded_text chunks have token ids`);
  });
}

function chunkLength(chunk: ModelInputChunk, index: number): number {
  if (chunk.type === 'encoded_text') return chunk.tokens.length;
  if (chunk.type !== 'dmel' && typeof chunk.expected_tokens === 'number') return chunk.expected_tokens;
  const remedy = chunk.type === 'dmel' ? 'only the server can count it' : 'set expected_tokens';
  throw new TypeError(`the length of chunk ${index} (${chunk.type}) is unknown: ${remedy}`);
}

/**
 * Context length used, in tokens.
 *
 * @throws TypeError when an image has no `expected_tokens`, or for audio.
 */
function length(input: ModelInput): number {
  return input.chunks.reduce((total, chunk, index) => total + chunkLength(chunk, index), 0);
}

/** A new input with one more chunk; the given one stays as it is. */
function append(input: ModelInput, chunk: ModelInputChunk): ModelInput {
  return { chunks: [...input.chunks, chunk] };
}

/** A new input with one more token; the given one stays as it is. */
function appendInt(input: ModelInput, token: number): ModelInput {
  return append(input, textChunk([token]));
}

/** What a model reads: the schema, and functions that build and read it. */
export const ModelInput = Object.assign(schema, { empty, fromInts, toInts, length, append, appendInt });

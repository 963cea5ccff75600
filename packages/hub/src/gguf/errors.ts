/** A GGUF file that cannot be read, or that holds a model which cannot be converted. The message names file and key. */
export class GgufError extends Error {
  override readonly name = 'GgufError';
}

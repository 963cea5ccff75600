/** A tokenizer's files are missing, malformed, or of a kind that this package does not know. */
export class TokenizerError extends Error {
  override readonly name = 'TokenizerError';
}

/** A chat template is missing, does not parse, or refused the messages (its `raise_exception`). */
export class ChatTemplateError extends Error {
  override readonly name = 'ChatTemplateError';
}

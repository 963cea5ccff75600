export type { ChatMessage, ChatTemplateOptions, ChatTemplates } from './chat-template.ts';
export { ChatTemplateError, TokenizerError } from './errors.ts';
export { IncrementalDecoder } from './incremental-decoder.ts';
export { type StopConditions, StopMatcher } from './stop-matcher.ts';
export type { TextStream } from './token-text.ts';
export { Tokenizer, type TokenizerFiles } from './tokenizer.ts';

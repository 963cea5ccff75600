// The parts of tokenizer.json and tokenizer_config.json that this package reads itself; the rest goes to the library.
import { z } from 'zod';
import { TokenizerError } from './errors.ts';

const addedTokenSchema = z.looseObject({
  id: z.number().int().nonnegative(),
  content: z.string(),
  special: z.boolean().default(false),
});

const tokenizerJsonSchema = z.looseObject({
  model: z.looseObject({}),
  normalizer: z.unknown(),
  pre_tokenizer: z.unknown(),
  post_processor: z.unknown(),
  decoder: z.unknown(),
  added_tokens: z.array(addedTokenSchema).default([]),
});

/** A token as configurations name it: plain text, or an object with its stripping rules. */
const tokenSchema = z
  .union([z.string(), z.looseObject({ content: z.string() })])
  .nullish()
  .transform((token) => (typeof token === 'object' ? token?.content : token));

const configSchema = z.looseObject({
  bos_token: tokenSchema,
  eos_token: tokenSchema,
  pad_token: tokenSchema,
  unk_token: tokenSchema,
  sep_token: tokenSchema,
  cls_token: tokenSchema,
  mask_token: tokenSchema,
  added_tokens_decoder: z.record(z.string(), addedTokenSchema.omit({ id: true })).default({}),
  chat_template: z
    .union([z.string(), z.array(z.object({ name: z.string(), template: z.string() }))])
    .nullish(),
});

export type TokenizerJson = z.infer<typeof tokenizerJsonSchema>;
export type TokenizerConfig = z.infer<typeof configSchema>;

/** Named special tokens that configurations and chat templates know, as transformers names them. */
export const NAMED_TOKENS = [
  'bos_token',
  'eos_token',
  'pad_token',
  'unk_token',
  'sep_token',
  'cls_token',
  'mask_token',
] as const;

/** Checks the contents of tokenizer.json. Throws TokenizerError naming the field. */
export function parseTokenizerJson(value: unknown): TokenizerJson {
  const parsed = tokenizerJsonSchema.safeParse(value);
  if (parsed.success) return parsed.data;
  throw new TokenizerError(`tokenizer.json: ${z.prettifyError(parsed.error)}`);
}

/** Checks the contents of tokenizer_config.json. Throws TokenizerError naming the field. */
export function parseTokenizerConfig(value: unknown): TokenizerConfig {
  const parsed = configSchema.safeParse(value);
  if (parsed.success) return parsed.data;
  throw new TokenizerError(`tokenizer_config.json: ${z.prettifyError(parsed.error)}`);
}

/** tokenizer.json with the added tokens that only tokenizer_config.json lists. */
export function withConfiguredTokens(json: TokenizerJson, config: TokenizerConfig): TokenizerJson {
  const known = new Set(json.added_tokens.map((token) => token.content));
  const missing = Object.entries(config.added_tokens_decoder)
    .filter(([, token]) => !known.has(token.content))
    .map(([id, token]) => ({ ...token, id: Number(id) }));
  return missing.length === 0 ? json : { ...json, added_tokens: [...json.added_tokens, ...missing] };
}

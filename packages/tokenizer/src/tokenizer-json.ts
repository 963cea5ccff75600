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
  normalizer: z.unknown().optional(),
  pre_tokenizer: z.unknown().optional(),
  post_processor: z.unknown().optional(),
  decoder: z.unknown().optional(),
  added_tokens: z.array(addedTokenSchema).default([]),
});

/** A token as configurations name it: plain text, or an object with its stripping rules. */
const tokenSchema = z
  .union([z.string(), z.looseObject({ content: z.string() })])
  .nullish()
  .transform((token) => (typeof token === 'object' ? token?.content : token));

const configSchema = z.looseObject({
  tokenizer_class: z.string().nullish(),
  add_prefix_space: z.boolean().nullish(),
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

/**
 * The splitting that transformers (5) uses: its GPT2Tokenizer class brings its own and leaves that of tokenizer.json
 * aside. SmolLM2 is such a model; its `Digits` step makes a difference for characters like ½ only.
 */
export function preTokenizerOf(json: TokenizerJson, config: TokenizerConfig): unknown {
  if (config.tokenizer_class !== 'GPT2Tokenizer' && config.tokenizer_class !== 'GPT2TokenizerFast') {
    return json.pre_tokenizer;
  }
  return { type: 'ByteLevel', add_prefix_space: config.add_prefix_space ?? false, use_regex: true };
}

const digitsSchema = z.looseObject({ type: z.literal('Digits'), individual_digits: z.boolean() });
const byteLevelSchema = z.looseObject({
  type: z.literal('ByteLevel'),
  add_prefix_space: z.literal(false),
  use_regex: z.literal(true).default(true),
});
const sequenceSchema = z.looseObject({ type: z.literal('Sequence'), pretokenizers: z.array(z.unknown()) });

/** GPT-2's splitting, which ByteLevel does unless told not to. */
const GPT2_PATTERN = String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`;

/**
 * A pre-tokenizer that splits as Rust does. The library translates the patterns of `Split` to Rust's meaning, but not
 * those built into two others, which are therefore written as `Split`: `Digits` splits at all of Unicode's numbers
 * (², ①, Ⅷ), not only at 0 to 9, and `ByteLevel` takes U+0085 for a space, and U+FEFF not.
 */
export function withExactSplits(preTokenizer: unknown): unknown {
  const sequence = sequenceSchema.safeParse(preTokenizer);
  if (sequence.success) {
    return { ...sequence.data, pretokenizers: sequence.data.pretokenizers.map(withExactSplits) };
  }
  const digits = digitsSchema.safeParse(preTokenizer);
  if (digits.success) return split(digits.data.individual_digits ? '\\p{N}' : '\\p{N}+');
  const byteLevel = byteLevelSchema.safeParse(preTokenizer);
  if (!byteLevel.success) return preTokenizer;
  return { type: 'Sequence', pretokenizers: [split(GPT2_PATTERN), { ...byteLevel.data, use_regex: false }] };
}

function split(regex: string): object {
  return { type: 'Split', pattern: { Regex: regex }, behavior: 'Isolated', invert: false };
}

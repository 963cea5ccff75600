// The tokenizer of a GGUF file as Hugging Face tokenizer files.
import { z } from 'zod';
import { GgufError } from './errors.ts';
import type { GgufFile } from './gguf-file.ts';

/** Token types of GGUF that become added tokens. */
const CONTROL = 3;
const USER_DEFINED = 4;

const strings = z.array(z.string());
const tokenId = z.number().int().nonnegative();

const BYTE_LEVEL = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true };

/** Splitting before BPE, by the name that llama.cpp gives it. */
const PRE_TOKENIZERS: Record<string, object[]> = {
  // Single digits, then GPT-2's pattern.
  smollm: [{ type: 'Digits', individual_digits: true }, BYTE_LEVEL],
};

export type TokenizerJson = ReturnType<typeof buildTokenizerJson>;

/** tokenizer.json of a byte-level BPE. Throws GgufError for another kind of tokenizer. */
export function buildTokenizerJson(source: GgufFile) {
  const model = source.metadata('tokenizer.ggml.model', z.string());
  const pre = source.metadata('tokenizer.ggml.pre', z.string());
  const pretokenizers = PRE_TOKENIZERS[pre];
  if (model !== 'gpt2' || !pretokenizers) {
    const known = Object.keys(PRE_TOKENIZERS).join(', ');
    throw new GgufError(
      `${source.path}: tokenizer "${model}" with splitting "${pre}" cannot be converted (gpt2 with ${known} can); put the model's own tokenizer.json beside the weights instead`,
    );
  }
  const tokens = source.metadata('tokenizer.ggml.tokens', strings);
  const types = source.metadata('tokenizer.ggml.token_type', z.array(z.number()));
  const added = tokens.flatMap((content, id) =>
    types[id] === CONTROL || types[id] === USER_DEFINED ? [addedToken(id, content)] : [],
  );
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: added,
    normalizer: null,
    pre_tokenizer: { type: 'Sequence', pretokenizers },
    post_processor: null,
    decoder: { ...BYTE_LEVEL, add_prefix_space: true },
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
      merges: source.metadata('tokenizer.ggml.merges', strings),
    },
  };
}

function addedToken(id: number, content: string) {
  return { id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true };
}

/** tokenizer_config.json, with the chat template. */
export function buildTokenizerConfig(source: GgufFile, tokenizer: TokenizerJson): object {
  const tokens = source.metadata('tokenizer.ggml.tokens', strings);
  const named = (name: string) => tokens[source.metadata(`tokenizer.ggml.${name}_token_id`, tokenId)];
  return {
    add_prefix_space: false,
    added_tokens_decoder: Object.fromEntries(
      tokenizer.added_tokens.map(({ id, ...token }) => [String(id), token]),
    ),
    additional_special_tokens: [named('bos'), named('eos')],
    bos_token: named('bos'),
    chat_template: source.metadata('tokenizer.chat_template', z.string()),
    clean_up_tokenization_spaces: false,
    eos_token: named('eos'),
    model_max_length: source.metadata('llama.context_length', z.number()),
    pad_token: named('padding'),
    tokenizer_class: 'GPT2Tokenizer',
    unk_token: named('unknown'),
    vocab_size: tokens.length,
  };
}

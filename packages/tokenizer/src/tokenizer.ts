import * as library from '@huggingface/tokenizers';
import { type ChatMessage, type ChatTemplateOptions, ChatTemplates } from './chat-template.ts';
import { TokenizerError } from './errors.ts';
import { type TextStream, textStreamsOf } from './token-text.ts';
import {
  NAMED_TOKENS,
  parseTokenizerConfig,
  parseTokenizerJson,
  preTokenizerOf,
  type TokenizerConfig,
  type TokenizerJson,
  withConfiguredTokens,
  withExactSplits,
} from './tokenizer-json.ts';

/** What is used of the library's Tokenizer. (Its own declarations do not resolve under NodeNext: relative imports without extension.) */
interface LibraryTokenizer {
  readonly model: { readonly vocab: readonly string[] };
  encode(text: string, options: { add_special_tokens: boolean }): { ids: (number | undefined)[] };
  id_to_token(id: number): string | undefined;
  token_to_id(token: string): number | undefined;
}

/** Contents of a checkpoint's tokenizer files, parsed from JSON. */
export interface TokenizerFiles {
  /** tokenizer.json */
  readonly tokenizer: unknown;
  /** tokenizer_config.json, if there is one */
  readonly config?: unknown;
  /** Templates from files of their own, by name (`default`); they win over those in the configuration. */
  readonly chatTemplates?: Readonly<Record<string, string>>;
}

/** Text to token ids and back, and chats to prompts, equal to what transformers does with the same files. */
export class Tokenizer {
  /** Ids that begin and end texts; undefined where the model has none. */
  readonly bosTokenId: number | undefined;
  readonly eosTokenId: number | undefined;
  readonly padTokenId: number | undefined;
  /** Ids of all special tokens: those that {@link decode} leaves out with `skipSpecialTokens`. */
  readonly specialTokenIds: ReadonlySet<number>;
  /** One more than the highest id. A checkpoint's embedding may have more rows than that. */
  readonly vocabSize: number;
  readonly chatTemplates: ChatTemplates;
  readonly #library: LibraryTokenizer;
  readonly #newText: () => TextStream;
  readonly #namedTokens: Readonly<Record<string, string>>;

  /**
   * Builds a tokenizer from its files' contents. `loadTokenizer` of `@anneal/tokenizer/node` reads them from a folder.
   *
   * @throws TokenizerError when a file is malformed or its decoder is of an unknown kind
   */
  constructor(files: TokenizerFiles) {
    const config = parseTokenizerConfig(files.config ?? {});
    const json = withConfiguredTokens(parseTokenizerJson(files.tokenizer), config);
    this.#newText = textStreamsOf(json.decoder);
    this.#library = buildLibraryTokenizer(json, config);
    this.#namedTokens = namedTokens(config);
    this.bosTokenId = this.#namedId('bos_token');
    this.eosTokenId = this.#namedId('eos_token');
    this.padTokenId = this.#namedId('pad_token');
    const special = json.added_tokens.filter((token) => token.special).map((token) => token.id);
    const named = NAMED_TOKENS.map((name) => this.#namedId(name)).filter((id) => id !== undefined);
    this.specialTokenIds = new Set([...special, ...named]);
    this.vocabSize = this.#library.model.vocab.length;
    this.chatTemplates = new ChatTemplates(chatTemplateSources(config, files.chatTemplates));
  }

  /**
   * Token ids of a text. Special tokens written out in the text become their ids.
   *
   * @param options.addSpecialTokens add what the model's post-processor adds, such as a leading bos; default true
   */
  encode(text: string, options: { addSpecialTokens?: boolean } = {}): number[] {
    const { ids } = this.#library.encode(text, { add_special_tokens: options.addSpecialTokens ?? true });
    // A character that the vocabulary cannot express, with no unknown token to stand for it, is dropped.
    return ids.filter((id) => id !== undefined);
  }

  /**
   * Text of token ids. Ids without a token are passed over; bytes that form no character show as U+FFFD.
   *
   * @param options.skipSpecialTokens leave special tokens out of the text; default false
   */
  decode(ids: Iterable<number>, options: { skipSpecialTokens?: boolean } = {}): string {
    const stream = this.#newText();
    let text = '';
    for (const id of ids) {
      if (options.skipSpecialTokens && this.specialTokenIds.has(id)) continue;
      const token = this.idToToken(id);
      if (token !== undefined) text += stream.push(token);
    }
    return text + stream.pending;
  }

  /** The vocabulary string of an id (`Ġthe`, `<0x0A>`), which is not its text. */
  idToToken(id: number): string | undefined {
    return this.#library.id_to_token(id);
  }

  /** The id of a vocabulary string. */
  tokenToId(token: string): number | undefined {
    return this.#library.token_to_id(token);
  }

  /**
   * The prompt text of a chat by the model's own template. Encode it with `addSpecialTokens: false`: the template has
   * written the special tokens.
   *
   * @throws ChatTemplateError when the model has no template, or the template fails or refuses the messages
   */
  applyChatTemplate(messages: readonly ChatMessage[], options: ChatTemplateOptions = {}): string {
    return this.chatTemplates.render(messages, options, this.#namedTokens);
  }

  /** Begins a text whose tokens come one by one: see `IncrementalDecoder`. */
  newTextStream(): TextStream {
    return this.#newText();
  }

  #namedId(name: (typeof NAMED_TOKENS)[number]): number | undefined {
    const token = this.#namedTokens[name];
    return token === undefined ? undefined : this.tokenToId(token);
  }
}

function buildLibraryTokenizer(json: TokenizerJson, config: TokenizerConfig): LibraryTokenizer {
  const exact = { ...json, pre_tokenizer: withExactSplits(preTokenizerOf(json, config)) };
  try {
    return new library.Tokenizer(exact, config);
  } catch (error) {
    throw new TokenizerError(`tokenizer.json: ${error instanceof Error ? error.message : error}`, {
      cause: error,
    });
  }
}

function namedTokens(config: TokenizerConfig): Record<string, string> {
  const entries = NAMED_TOKENS.map((name) => [name, config[name]] as const);
  return Object.fromEntries(
    entries.filter((entry): entry is [(typeof entry)[0], string] => entry[1] != null),
  );
}

function chatTemplateSources(
  config: TokenizerConfig,
  files: Readonly<Record<string, string>> = {},
): Map<string, string> {
  const { chat_template: configured } = config;
  const sources = new Map<string, string>();
  if (typeof configured === 'string') sources.set('default', configured);
  for (const { name, template } of Array.isArray(configured) ? configured : []) sources.set(name, template);
  for (const [name, template] of Object.entries(files)) sources.set(name, template);
  return sources;
}

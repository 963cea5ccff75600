import type { TextStream } from './token-text.ts';
import type { Tokenizer } from './tokenizer.ts';

/**
 * Text of token ids that come one by one, special tokens shown. At every step `text + pending` is `tokenizer.decode` of
 * all ids so far, at a cost that does not grow with their number.
 */
export class IncrementalDecoder {
  readonly #tokenizer: Pick<Tokenizer, 'idToToken'>;
  readonly #stream: TextStream;
  #text = '';

  constructor(tokenizer: Pick<Tokenizer, 'idToToken' | 'newTextStream'>) {
    this.#tokenizer = tokenizer;
    this.#stream = tokenizer.newTextStream();
  }

  /** Adds an id and returns the text that became final: empty while a character's bytes are incomplete. */
  push(id: number): string {
    const token = this.#tokenizer.idToToken(id);
    if (token === undefined) return '';
    const added = this.#stream.push(token);
    this.#text += added;
    return added;
  }

  /** Text so far that further ids cannot change. */
  get text(): string {
    return this.#text;
  }

  /** What follows `text` for now: replacement characters for incomplete bytes, or nothing. */
  get pending(): string {
    return this.#stream.pending;
  }
}

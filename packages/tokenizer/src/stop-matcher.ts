import type { TextStream } from './token-text.ts';
import type { Tokenizer } from './tokenizer.ts';

export interface StopConditions {
  /** Ids after which a sequence ends. */
  readonly stopTokenIds?: Iterable<number>;
  /** Texts whose appearance in the decoded text, special tokens shown, ends a sequence. */
  readonly stopStrings?: Iterable<string>;
  /** Needed where there are stop strings. */
  readonly tokenizer?: Pick<Tokenizer, 'idToToken' | 'newTextStream'>;
}

/**
 * Tells at which token a sequence stops: the first that is a stop id, or that makes a stop string appear. One matcher
 * serves one sequence; only as much text is kept as the longest stop string needs.
 */
export class StopMatcher {
  readonly #stopTokenIds: ReadonlySet<number>;
  readonly #stopStrings: readonly string[];
  readonly #tokenizer: NonNullable<StopConditions['tokenizer']> | undefined;
  readonly #stream: TextStream | undefined;
  readonly #keep: number;
  #tail = '';

  constructor({ stopTokenIds = [], stopStrings = [], tokenizer }: StopConditions) {
    this.#stopTokenIds = new Set(stopTokenIds);
    this.#stopStrings = [...stopStrings];
    if (this.#stopStrings.length > 0 && !tokenizer) throw new TypeError('Stop strings need a tokenizer.');
    this.#tokenizer = tokenizer;
    this.#stream = tokenizer?.newTextStream();
    this.#keep = Math.max(0, ...this.#stopStrings.map((text) => text.length - 1));
  }

  /** Adds a token and tells whether it is the sequence's last. */
  push(id: number): boolean {
    if (this.#stopTokenIds.has(id)) return true;
    if (this.#stopStrings.length === 0 || !this.#tokenizer || !this.#stream) return false;
    const token = this.#tokenizer.idToToken(id);
    const settled = this.#tail + (token === undefined ? '' : this.#stream.push(token));
    const shown = settled + this.#stream.pending;
    this.#tail = this.#keep === 0 ? '' : settled.slice(-this.#keep);
    return this.#stopStrings.some((text) => shown.includes(text));
  }
}

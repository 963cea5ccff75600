import { IncrementalDecoder, type Tokenizer } from '@anneal/tokenizer';

/** A sampled token and where it is in the text. */
export interface PlacedToken {
  id: number;
  /** Position among the sequence's tokens. */
  at: number;
  /** Characters of the returned text before it. */
  offset: number;
}

/** What became certain: text, and the tokens that begin in it. */
export interface TextPiece {
  text: string;
  tokens: PlacedToken[];
}

interface Rules {
  /** Ids that end a text and are not part of it. */
  endIds: readonly number[];
  stopStrings: readonly string[];
}

type DecoderSource = Pick<Tokenizer, 'idToToken' | 'newTextStream' | 'specialTokenIds'>;

/**
 * The text of one sequence as it is returned: without special tokens and without what stopped it. Text that may turn out
 * to begin a stop string, and bytes that are no whole character yet, are held back.
 */
export class SequenceText {
  readonly #tokenizer: DecoderSource;
  readonly #rules: Rules;
  readonly #decoder: IncrementalDecoder;
  /** Spans of the decoded text that special tokens take. */
  readonly #hidden: [start: number, end: number][] = [];
  #waiting: (PlacedToken & { start: number })[] = [];
  #text = '';
  #hiddenLength = 0;
  #released = 0;
  #count = 0;
  #ended = false;

  constructor(tokenizer: DecoderSource, rules: Rules) {
    this.#tokenizer = tokenizer;
    this.#rules = rules;
    this.#decoder = new IncrementalDecoder(tokenizer);
  }

  /** Adds a token. After an end id or a stop string, tokens no longer count. */
  push(id: number): TextPiece {
    const at = this.#count++;
    if (this.#ended) return { text: '', tokens: [] };
    if (this.#rules.endIds.includes(id)) {
      this.#ended = true;
      return this.#release(this.#text.length, true);
    }
    const start = this.#text.length;
    this.#waiting.push({ id, at, start, offset: start - this.#hiddenLength });
    this.#text += this.#decoder.push(id);
    this.#hide(id, start);
    return this.#settle(this.#text.length - this.#heldLength());
  }

  /** What was held back, when no more tokens come. Bytes that never became a character are left out. */
  finish(): TextPiece {
    if (this.#ended) return { text: '', tokens: [] };
    this.#text += this.#decoder.pending.replace(/\uFFFD+$/, '');
    const piece = this.#settle(this.#text.length);
    const rest = this.#release(this.#text.length, true);
    return { text: piece.text + rest.text, tokens: [...piece.tokens, ...rest.tokens] };
  }

  /** Releases text up to `end`, or all before a stop string if there is one. */
  #settle(end: number): TextPiece {
    const cuts = this.#rules.stopStrings
      .map((stop) => this.#text.indexOf(stop, this.#released))
      .filter((cut) => cut >= 0);
    if (cuts.length === 0) return this.#release(end, false);
    const cut = Math.min(...cuts);
    this.#ended = true;
    this.#text = this.#text.slice(0, cut);
    this.#waiting = this.#waiting.filter(({ start }) => start < cut);
    return this.#release(cut, true);
  }

  /** @param all Also tokens that begin at the end: those without text of their own. */
  #release(end: number, all: boolean): TextPiece {
    const ready = this.#waiting.filter(({ start }) => all || start < end);
    this.#waiting = this.#waiting.slice(ready.length);
    const text = this.#visible(this.#released, end);
    this.#released = Math.max(this.#released, end);
    return { text, tokens: ready.map(({ id, at, offset }) => ({ id, at, offset })) };
  }

  #visible(from: number, to: number): string {
    let text = '';
    let at = from;
    for (const [start, end] of this.#hidden) {
      if (end <= at || start >= to) continue;
      text += this.#text.slice(at, Math.max(at, start));
      at = Math.min(end, to);
    }
    return text + this.#text.slice(at, Math.max(at, to));
  }

  #hide(id: number, start: number): void {
    if (!this.#tokenizer.specialTokenIds.has(id)) return;
    const token = this.#tokenizer.idToToken(id) ?? '';
    if (token === '' || !this.#text.slice(start).endsWith(token)) return;
    this.#hidden.push([this.#text.length - token.length, this.#text.length]);
    this.#hiddenLength += token.length;
  }

  /** Length of the longest end of the text that begins a stop string. */
  #heldLength(): number {
    const longest = (stop: string): number => {
      for (let length = Math.min(stop.length - 1, this.#text.length - this.#released); length > 0; length--) {
        if (this.#text.endsWith(stop.slice(0, length))) return length;
      }
      return 0;
    };
    return Math.max(0, ...this.#rules.stopStrings.map(longest));
  }
}

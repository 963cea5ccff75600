/** Prompts whose keys and values are kept, so that one that begins alike computes only the rest. Least recently used go first. */
import type { LoraAdapter } from '../lora/adapter.ts';
import type { PromptRows } from './prompt-rows.ts';

/** Shorter beginnings are computed again: looking them up costs as much. */
export const MIN_SHARED = 32;

interface Entry {
  adapter: LoraAdapter | undefined;
  tokens: Int32Array;
  rows: PromptRows;
}

export interface PrefixHit {
  rows: PromptRows;
  /** Tokens in common. */
  length: number;
}

export class PrefixCache {
  /** Oldest first. */
  #entries: Entry[] = [];
  readonly #budgetBytes: number;
  #bytes = 0;

  constructor(budgetBytes: number) {
    this.#budgetBytes = budgetBytes;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** The longest beginning that `tokens` shares with a kept prompt of the same adapter; never all of it. Stays the cache's. */
  find(adapter: LoraAdapter | undefined, tokens: Int32Array): PrefixHit | undefined {
    let best: { entry: Entry; length: number } | undefined;
    for (const entry of this.#entries) {
      if (entry.adapter !== adapter) continue;
      const length = Math.min(sharedLength(entry.tokens, tokens), tokens.length - 1);
      if (length >= MIN_SHARED && length > (best?.length ?? 0)) best = { entry, length };
    }
    return best && { rows: best.entry.rows, length: best.length };
  }

  /** Notes that the prompt that begins like this was used again. */
  touch(rows: PromptRows): void {
    const entry = this.#entries.find((candidate) => candidate.rows === rows);
    if (entry) this.#entries = [...this.#entries.filter((candidate) => candidate !== entry), entry];
  }

  /** Takes rows over, unless a longer prompt has them; those of a beginning of `tokens` are dropped for them. */
  put(adapter: LoraAdapter | undefined, tokens: Int32Array, rows: PromptRows): void {
    const isKnown = this.#entries.some(
      (entry) => entry.adapter === adapter && sharedLength(entry.tokens, tokens) === tokens.length,
    );
    if (isKnown || tokens.length < MIN_SHARED || rows.bytes > this.#budgetBytes) {
      rows.dispose();
      return;
    }
    this.#drop(
      (entry) =>
        entry.adapter === adapter &&
        entry.tokens.length <= tokens.length &&
        sharedLength(entry.tokens, tokens) === entry.tokens.length,
    );
    this.#entries.push({ adapter, tokens, rows });
    this.#bytes += rows.bytes;
    while (this.#bytes > this.#budgetBytes) {
      const oldest = this.#entries[0]!;
      this.#drop((entry) => entry === oldest);
    }
  }

  /** Forgets what was computed with an adapter that is about to go. */
  forget(adapter: LoraAdapter | undefined): void {
    this.#drop((entry) => entry.adapter === adapter);
  }

  dispose(): void {
    this.#drop(() => true);
  }

  #drop(isDropped: (entry: Entry) => boolean): void {
    const dropped = this.#entries.filter(isDropped);
    this.#entries = this.#entries.filter((entry) => !dropped.includes(entry));
    for (const { rows } of dropped) {
      this.#bytes -= rows.bytes;
      rows.dispose();
    }
  }
}

/** How many tokens two prompts begin with alike. */
export function sharedLength(a: Int32Array, b: Int32Array): number {
  const most = Math.min(a.length, b.length);
  let length = 0;
  while (length < most && a[length] === b[length]) length++;
  return length;
}

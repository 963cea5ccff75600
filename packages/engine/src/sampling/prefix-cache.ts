/**
 * Prompts whose keys and values are kept, so that one that begins alike computes only the rest. Least recently used go first.
 *
 * A state is that after the last token and cannot be taken back: where layers have states, a kept prompt serves only those
 * that begin with all of it.
 */
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
  readonly #wholeOnly: boolean;
  #bytes = 0;

  /** @param options.wholeOnly Layers have states. */
  constructor(budgetBytes: number, { wholeOnly }: { wholeOnly: boolean }) {
    this.#budgetBytes = budgetBytes;
    this.#wholeOnly = wholeOnly;
  }

  get bytes(): number {
    return this.#bytes;
  }

  get budgetBytes(): number {
    return this.#budgetBytes;
  }

  /** The longest beginning that `tokens` shares with a kept prompt of the same adapter; never all of it. Stays the cache's. */
  find(adapter: LoraAdapter | undefined, tokens: Int32Array): PrefixHit | undefined {
    let best: { entry: Entry; length: number } | undefined;
    for (const entry of this.#entries) {
      if (entry.adapter !== adapter) continue;
      const length = this.usableLength(entry.tokens, tokens);
      if (length >= MIN_SHARED && length > (best?.length ?? 0)) best = { entry, length };
    }
    return best && { rows: best.entry.rows, length: best.length };
  }

  /** How many of `tokens`, but never all, need not be computed if `kept` was. */
  usableLength(kept: Int32Array, tokens: Int32Array): number {
    const length = Math.min(sharedLength(kept, tokens), tokens.length - 1);
    return this.#wholeOnly && length < kept.length ? 0 : length;
  }

  /** Notes that the prompt that begins like this was used again. */
  touch(rows: PromptRows): void {
    const entry = this.#entries.find((candidate) => candidate.rows === rows);
    if (entry) this.#entries = [...this.#entries.filter((candidate) => candidate !== entry), entry];
  }

  /** Takes rows over, unless a kept prompt serves as well; kept ones that they serve better than are dropped. */
  put(adapter: LoraAdapter | undefined, tokens: Int32Array, rows: PromptRows): void {
    const isKnown = this.#entries.some(
      (entry) => entry.adapter === adapter && this.#contains(entry.tokens, tokens),
    );
    if (isKnown || tokens.length < MIN_SHARED || rows.bytes > this.#budgetBytes) {
      rows.dispose();
      return;
    }
    this.#drop((entry) => entry.adapter === adapter && this.#contains(tokens, entry.tokens));
    this.#entries.push({ adapter, tokens, rows });
    this.#bytes += rows.bytes;
    while (this.#bytes > this.#budgetBytes) {
      const oldest = this.#entries[0]!;
      this.#drop((entry) => entry === oldest);
    }
  }

  /** Whether rows of `longer` serve every prompt that those of `shorter` serve. */
  #contains(longer: Int32Array, shorter: Int32Array): boolean {
    if (this.#wholeOnly && longer.length !== shorter.length) return false;
    return sharedLength(longer, shorter) === shorter.length;
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

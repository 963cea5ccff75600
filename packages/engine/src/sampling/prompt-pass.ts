/** One prompt, prefilled in pieces, between which others use the device; the beginning may come from the prefix cache. */
import { type Tensor, tf } from '@anneal/tensorflow';
import type { EngineImage } from '../engine.ts';
import { bucketWidth } from '../training/batch-plan.ts';
import { disposePlaced } from '../vision/placed-images.ts';
import type { BatchedAdapters } from './batch-adapters.ts';
import type { Decoder } from './decoder.ts';
import type { PrefixHit } from './prefix-cache.ts';
import { PromptRows } from './prompt-rows.ts';

export interface PromptPassOptions {
  prompt: Int32Array;
  images: readonly EngineImage[];
  adapters: BatchedAdapters;
  hit: PrefixHit | undefined;
  /** Tokens of a piece. */
  pieceTokens: number;
  /** Keep every position's hidden states, not only the last piece's. */
  keepHidden: boolean;
}

export class PromptPass {
  readonly #decoder: Decoder;
  readonly #options: PromptPassOptions;
  #rows: PromptRows | undefined;
  #hidden: Tensor[] = [];
  #done: number;
  /** Tokens that the prefix cache gave. */
  readonly cached: number;

  constructor(decoder: Decoder, options: PromptPassOptions) {
    this.#decoder = decoder;
    this.#options = options;
    this.cached = this.#done = options.hit?.length ?? 0;
  }

  get finished(): boolean {
    return this.#done === this.#options.prompt.length;
  }

  /** Computes one piece. The first uses the prefix cache's rows, so it comes before anything else changes that. */
  step(): void {
    const { prompt, images, adapters, hit, pieceTokens, keepHidden } = this.#options;
    const count = Math.min(pieceTokens, prompt.length - this.#done);
    const piece = prompt.subarray(this.#done, this.#done + count);
    const first = this.#rows === undefined;
    const before = first ? hit : { rows: this.#rows!, length: this.#done };
    const placed = this.#decoder.place(images, this.#done, bucketWidth(count));
    const { x, cached } = before
      ? this.#decoder.extend(piece, before, adapters, placed)
      : this.#decoder.prefill([piece], adapters, placed);
    disposePlaced(placed);
    const capacity = bucketWidth(this.#done + count);
    const rows = PromptRows.joined(before, cached, {
      row: 0,
      count,
      capacity,
      storage: this.#decoder.layout.storage,
    });
    tf.dispose(cached.layers);
    this.#rows?.dispose();
    this.#rows = rows;
    if (!keepHidden) tf.dispose(this.#hidden.splice(0));
    this.#hidden.push(tf.slice(x, [0, 0], [count, -1]));
    x.dispose();
    this.#done += count;
  }

  /**
   * What a finished pass has: hidden states before the final norm [positions, hidden], the last position's last, and the
   * prompt's rows for the cache. The caller owns both.
   */
  take(): { x: Tensor; rows: PromptRows } {
    const x = this.#hidden.length === 1 ? this.#hidden[0]! : (tf.concat(this.#hidden, 0) as Tensor);
    if (this.#hidden.length > 1) tf.dispose(this.#hidden);
    const rows = this.#rows!;
    this.#hidden = [];
    this.#rows = undefined;
    return { x, rows };
  }

  dispose(): void {
    tf.dispose(this.#hidden);
    this.#rows?.dispose();
    this.#hidden = [];
    this.#rows = undefined;
  }
}

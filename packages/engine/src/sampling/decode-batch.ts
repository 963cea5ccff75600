/** The sequences that decode together: who has which slot, what the slots keep of the past, and their adapters. */

import type { Tensor } from '@anneal/tensorflow';
import type { CacheShape } from '../models/architecture.ts';
import type { BaseModel } from '../models/base-model.ts';
import { bucketWidth } from '../training/batch-plan.ts';
import { BatchAdapters, type BatchedAdapters } from './batch-adapters.ts';
import type { PrefilledRows } from './cached-rows.ts';
import type { Decoder } from './decoder.ts';
import type { Job, Running } from './job.ts';
import { KvCache, type SlotSource } from './kv-cache.ts';
import type { PromptRows } from './prompt-rows.ts';

const SLOT_BUCKETS = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128];

/** Slots are padded to these counts, so that few shapes are compiled. */
export function bucketSlots(count: number): number {
  return SLOT_BUCKETS.find((bucket) => bucket >= count) ?? count;
}

export class DecodeBatch {
  readonly #cache: KvCache;
  readonly #batchAdapters: BatchAdapters;
  /** By slot; undefined where a sequence has ended. */
  #running: (Running | undefined)[] = [];
  #adapters: BatchedAdapters | undefined;

  /**
   * @param shapes What each layer keeps of a sequence
   * @param decoder The one that will take the steps
   */
  constructor(base: BaseModel, shapes: CacheShape[], decoder: Decoder) {
    this.#cache = new KvCache(shapes, decoder.layout);
    this.#batchAdapters = new BatchAdapters(base, decoder);
  }

  /** Sequences that have not ended. */
  get active(): number {
    return this.#running.filter(Boolean).length;
  }

  /** Positions of its past for which each slot has room. */
  get capacity(): number {
    return this.#cache.capacity;
  }

  /** Bytes of the cache, and how many positions of it hold tokens of running sequences. */
  get cacheUse(): { bytes: number; tokens: number } {
    const lengths = this.#running.map((entry, slot) => (entry ? this.#cache.length(slot) : 0));
    return { bytes: this.#cache.bytes, tokens: lengths.reduce((sum, length) => sum + length, 0) };
  }

  get jobs(): Job[] {
    return this.#running.flatMap((entry) => (entry ? [entry.job] : []));
  }

  /** Lets freshly prefilled sequences join; `row` is theirs in `prefilled`. */
  join(added: (Running & { row: number })[], prefilled: PrefilledRows): void {
    this.#rebuild(added, prefilled);
  }

  /**
   * One decode step of all sequences.
   *
   * @param draw Gives the sequences their next tokens from hidden rows `x` [slots, 1, hidden]
   */
  step(
    decoder: Decoder,
    draw: (x: Tensor, entries: (Running | undefined)[], adapters: BatchedAdapters) => void,
  ): void {
    if (this.#cache.isFull || bucketSlots(this.active) < this.#cache.slots) this.#rebuild([], undefined);
    const tokens = Int32Array.from(
      { length: this.#cache.slots },
      (_, slot) => this.#running[slot]?.sequence.lastToken ?? 0,
    );
    const shifts = Array.from(tokens, (_, slot) => this.#running[slot]?.job.positionShift ?? 0);
    const adapters = this.#adapters!;
    const x = decoder.step(tokens, shifts, this.#cache, adapters);
    draw(x, [...this.#running], adapters);
    x.dispose();
  }

  /** Frees the slots of sequences that have ended, or whose job has; `ended` sees each before, and what its slot keeps. */
  removeEnded(ended: (entry: Running, kept: { length: number; extract: () => PromptRows }) => void): void {
    this.#running.forEach((entry, slot) => {
      if (!entry || (!entry.sequence.finished && !entry.job.settled)) return;
      ended(entry, { length: this.#cache.length(slot), extract: () => this.#cache.extract(slot) });
      this.#running[slot] = undefined;
    });
    if (this.active === 0) this.clear();
  }

  /** Drops a job's sequences; their slots are reused when the batch is next built. */
  drop(job: Job): void {
    this.#running = this.#running.map((entry) => (entry?.job === job ? undefined : entry));
  }

  clear(): void {
    this.#running = [];
    this.#cache.dispose();
    this.#batchAdapters.dispose();
    this.#adapters = undefined;
  }

  /** Builds the cache anew from running sequences and freshly prefilled ones. */
  #rebuild(added: (Running & { row: number })[], prefilled: PrefilledRows | undefined): void {
    const kept = this.#running.flatMap((entry, slot): Placed[] =>
      entry ? [{ ...entry, source: { from: 'slot', slot, length: this.#cache.length(slot) } }] : [],
    );
    const joining = added.map(
      ({ job, sequence, row }): Placed => ({
        job,
        sequence,
        source: { from: 'prefill', row, length: job.request.prompt.length },
      }),
    );
    const entries = byAdapter([...kept, ...joining]);
    const sources = entries.map(({ source }) => source);
    const slots = bucketSlots(sources.length);
    const capacity = bucketWidth(Math.max(...sources.map(({ length }) => length)));
    this.#cache.rebuild(sources, slots, capacity, prefilled);
    const running = entries.map(({ job, sequence }) => ({ job, sequence }));
    this.#running = Array.from({ length: slots }, (_, i) => running[i]);
    const last = entries.at(-1)!.job.adapter;
    const rows = this.#running.map((entry) => (entry ? entry.job.adapter : last));
    this.#adapters = this.#batchAdapters.of(rows);
  }
}

interface Placed extends Running {
  source: SlotSource;
}

/** Those of one adapter side by side, in the order of their firsts: they are multiplied together then. */
function byAdapter(entries: Placed[]): Placed[] {
  const adapters = new Set(entries.map(({ job }) => job.adapter));
  return [...adapters].flatMap((adapter) => entries.filter(({ job }) => job.adapter === adapter));
}

/** Which waiting prompts the next prefill takes: by fair turns, free slots, KV memory, and what the prefix cache has. */
import type { CacheShape } from '../models/architecture.ts';
import { bucketWidth } from '../training/batch-plan.ts';
import type { FairTurns } from './fair-turns.ts';
import type { Job, PrefillGroup } from './job.ts';
import { type CacheLayout, cacheBytes, windowOf } from './kv-cache.ts';
import { MIN_SHARED, type PrefixCache, type PrefixHit } from './prefix-cache.ts';
import { wantsPromptScores } from './prompt-scores.ts';

export interface AdmissionLimits {
  /** Sequences that decode together at most. */
  maxSlots: number;
  /** Bytes that keys and values may take. */
  kvBudgetBytes: number;
  /** Longer prompts are prefilled in pieces of this many tokens. */
  pieceTokens: number;
  /** Prompt tokens that one prefill takes on, padding included. */
  prefillTokens: number;
  /** Whether layers are fused: then prompts of any adapters and lengths go together, without padding. */
  fused: boolean;
  layout: CacheLayout;
}

/** What decodes at present: its sequences, and the positions for which each slot has room. */
export interface Occupancy {
  active: number;
  capacity: number;
}

export class Admission {
  readonly #limits: AdmissionLimits;
  readonly #shapes: CacheShape[];
  readonly #prefixes: PrefixCache;
  readonly #turns: FairTurns;

  /** @param shapes What each layer keeps of a sequence */
  constructor(limits: AdmissionLimits, shapes: CacheShape[], prefixes: PrefixCache, turns: FairTurns) {
    this.#limits = limits;
    this.#shapes = shapes;
    this.#prefixes = prefixes;
    this.#turns = turns;
  }

  /**
   * Waiting jobs that can be prefilled together now: within slots, tokens and KV memory and, unless any go together, of the same adapter
   * and similar length. One that goes in pieces goes alone, and one that begins like another of the group waits for what that computes.
   */
  nextGroup(waiting: Job[], { active, capacity }: Occupancy): PrefillGroup {
    const group: PrefillGroup = [];
    let free = this.#limits.maxSlots - active;
    if (free <= 0) return group;
    for (const job of this.#turns.ordered(waiting)) {
      if (free <= 0) break;
      const first = group[0]?.job;
      if (first && !this.#goesWith(job, group)) continue;
      const count = Math.min(free, job.sequences.length - job.started);
      const slots = active + count + group.reduce((sum, g) => sum + g.count, 0);
      const longest = Math.max(...[...group.map((other) => other.job), job].map(lengthOf));
      if (!this.#fitsMemory(longest, slots, capacity) && (first || active > 0)) continue;
      const alone = this.goesInPieces(job);
      if (alone && !first) return [{ job, count }];
      if (alone || group.some((other) => this.#beginsLike(job, other.job))) continue;
      group.push({ job, count });
      free -= count;
    }
    return group;
  }

  #goesWith(job: Job, group: PrefillGroup): boolean {
    const lengths = [...group.map((other) => other.job), job].map(lengthOf);
    if (this.#limits.fused)
      return lengths.reduce((sum, length) => sum + length, 0) <= this.#limits.prefillTokens;
    const width = bucketWidth(lengths[0]!);
    return (
      job.adapter === group[0]!.job.adapter &&
      bucketWidth(lengthOf(job)) === width &&
      width * lengths.length <= this.#limits.prefillTokens
    );
  }

  goesInPieces(job: Job): boolean {
    return (
      job.pass !== undefined ||
      (job.request.images ?? []).length > 0 ||
      job.request.prompt.length > this.#limits.pieceTokens ||
      this.cachedBeginning(job) !== undefined
    );
  }

  /** What is kept of the prompt's beginning. Scores need every position's hidden states, which are not kept. */
  cachedBeginning(job: Job): PrefixHit | undefined {
    if (wantsPromptScores(job.request) && !job.scored) return undefined;
    const hit = this.#prefixes.find(job.adapter, job.key);
    return hit && hit.length >= job.key.length / 4 ? hit : undefined;
  }

  /** Whether it is better to wait for what the other's prompt leaves in the prefix cache. */
  #beginsLike({ key, adapter }: Job, other: Job): boolean {
    if (adapter !== other.adapter) return false;
    const usable = this.#prefixes.usableLength(other.key, key);
    return usable >= MIN_SHARED && usable >= key.length / 2;
  }

  /** @param longest Tokens of the longest prompt that would join; every slot has room for as many. */
  #fitsMemory(longest: number, slots: number, capacity: number): boolean {
    const positions = Math.max(capacity, bucketWidth(longest + windowOf(slots, this.#limits.layout)));
    return (
      cacheBytes(this.#shapes, slots, positions, this.#limits.layout.storage) <= this.#limits.kvBudgetBytes
    );
  }
}

function lengthOf({ request }: Job): number {
  return request.prompt.length;
}

/** One sample being drawn: its tokens so far, its own stream of random numbers, and when it ends. */
import type { StopMatcher } from '@anneal/tokenizer';
import type { SampledSequence, SamplingParams, TopkLogprobs } from '../engine.ts';
import { randomKey, uniformAt } from '../random/counter-random.ts';
import type { Draw } from './head-outputs.ts';

/** Fills cells of a top-k row beyond the vocabulary. */
export const NO_LOGPROB = -99999;

export interface TopkRow {
  ids: ArrayLike<number>;
  logprobs: ArrayLike<number>;
}

export class Sequence {
  readonly index: number;
  readonly params: SamplingParams;
  readonly #key: bigint;
  readonly #limit: number;
  readonly #stop: StopMatcher;
  readonly #topk: number;
  readonly #tokens: number[] = [];
  readonly #logprobs: number[] = [];
  readonly #topkRows: TopkRow[] = [];
  finished: 'stop' | 'length' | undefined;

  /**
   * @param seed The request's seed; each index of a group gets a stream of its own, which repeats with the seed.
   * @param limit Largest number of tokens.
   */
  constructor(
    index: number,
    params: SamplingParams,
    seed: bigint,
    limit: number,
    stop: StopMatcher,
    topk: number,
  ) {
    this.index = index;
    this.params = params;
    this.#key = randomKey(seed, index);
    this.#limit = limit;
    this.#stop = stop;
    this.#topk = topk;
  }

  get length(): number {
    return this.#tokens.length;
  }

  get tokens(): readonly number[] {
    return this.#tokens;
  }

  get lastToken(): number {
    return this.#tokens.at(-1) as number;
  }

  /** What the next token is drawn by; the same whatever else is in the batch. */
  nextDraw(): Draw {
    const bits = randomKey(this.#key, this.#tokens.length);
    return {
      uniform: uniformAt(bits, 0),
      seeds: [Number(BigInt.asIntN(32, bits)), Number(BigInt.asIntN(32, bits >> 32n))],
    };
  }

  /** The host's counterpart: uniform numbers in [0, 1) by token id. */
  nextNoise(): (id: number) => number {
    const key = randomKey(this.#key, this.#tokens.length);
    return (id) => uniformAt(key, id);
  }

  append(token: number, logprob: number, topk: TopkRow | undefined): void {
    this.#tokens.push(token);
    this.#logprobs.push(logprob);
    if (topk) this.#topkRows.push(topk);
    if (this.#stop.push(token)) this.finished = 'stop';
    else if (this.#tokens.length >= this.#limit) this.finished = 'length';
  }

  result(): SampledSequence {
    return {
      stopReason: this.finished ?? 'length',
      tokens: Int32Array.from(this.#tokens),
      logprobs: Float32Array.from(this.#logprobs),
      ...(this.#topk > 0 ? { topk: packTopk(this.#topkRows, this.#topk) } : {}),
    };
  }
}

/** Lays top-k rows out row-major; rows that are undefined or short are filled up. */
export function packTopk(rows: (TopkRow | undefined)[], k: number): TopkLogprobs {
  const tokenIds = new Int32Array(rows.length * k);
  const logprobs = new Float32Array(rows.length * k).fill(NO_LOGPROB);
  rows.forEach((row, r) => {
    if (!row) return;
    for (let i = 0; i < Math.min(k, row.ids.length); i++) {
      tokenIds[r * k + i] = row.ids[i] as number;
      logprobs[r * k + i] = row.logprobs[i] as number;
    }
  });
  return { k, length: rows.length, tokenIds, logprobs };
}

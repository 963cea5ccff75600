/**
 * Continuous batching over one base model: prompts are prefilled in groups, and all running sequences, of whatever adapter,
 * take each decode step together. `work()` does one such unit, so that the scheduler can share the device.
 */

import { randomBytes } from 'node:crypto';
import { profiled, type Tensor, tf } from '@anneal/tensorflow';
import { StopMatcher, type Tokenizer } from '@anneal/tokenizer';
import { EngineError, type SampleOptions, type SampleRequest, type SampleResult } from '../engine.ts';
import type { LoraAdapter } from '../lora/adapter.ts';
import type { BaseModel } from '../models/base-model.ts';
import { bucketWidth } from '../training/batch-plan.ts';
import type { HeadPass } from '../training/head-pass.ts';
import { type StackedAdapters, stackAdapters } from './adapter-stack.ts';
import { checkSampleRequest, stopConditions } from './check-request.ts';
import { Decoder } from './decoder.ts';
import { KvCache, RECENT, type SlotSource } from './kv-cache.ts';
import { pickTokens } from './pick-tokens.ts';
import { PromptScorer, wantsPromptScores } from './prompt-scores.ts';
import { Sequence } from './sequence.ts';

export interface SamplerOptions {
  /** Sequences that decode together at most. */
  maxSlots: number;
  /** Bytes that keys and values may take. */
  kvBudgetBytes: number;
  /** Padded prompt tokens that one prefill takes on. */
  prefillTokens: number;
  xla: boolean;
  tokenizer: () => Tokenizer;
}

interface Job {
  request: SampleRequest;
  adapter: LoraAdapter | undefined;
  seed: bigint;
  options: SampleOptions;
  sequences: Sequence[];
  /** Sequences that have been prefilled. */
  started: number;
  scores: Partial<SampleResult>;
  scored: boolean;
  resolve: (result: SampleResult) => void;
  reject: (error: Error) => void;
  settled: boolean;
}

/** A running sequence and its slot's owner. */
interface Running {
  job: Job;
  sequence: Sequence;
}

const SLOT_BUCKETS = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128];

export class Sampler {
  readonly #base: BaseModel;
  readonly #options: SamplerOptions;
  readonly #decoder: Decoder;
  readonly #scorer: PromptScorer;
  readonly #cache: KvCache;
  readonly #waiting: Job[] = [];
  /** By slot; undefined where a sequence has ended. */
  #running: (Running | undefined)[] = [];
  #adapters: StackedAdapters | undefined;
  sampledTokens = 0;

  constructor(base: BaseModel, head: HeadPass, options: SamplerOptions) {
    this.#base = base;
    this.#options = options;
    this.#decoder = new Decoder(base, { xla: options.xla });
    this.#scorer = new PromptScorer(base, head);
    this.#cache = new KvCache({ numLayers: base.config.numLayers, ...base.cacheShape() });
  }

  get activeSequences(): number {
    return this.#running.filter(Boolean).length;
  }

  get waitingSequences(): number {
    return this.#waiting.reduce((sum, job) => sum + job.sequences.length - job.started, 0);
  }

  get hasWork(): boolean {
    return this.#waiting.length > 0 || this.#running.some(Boolean);
  }

  /** Queues a request. The adapter must stay alive until the promise settles. */
  submit(
    request: SampleRequest,
    adapter: LoraAdapter | undefined,
    options: SampleOptions = {},
  ): Promise<SampleResult> {
    return new Promise((resolve, reject) => {
      const { limit } = checkSampleRequest(request, this.#base.config);
      const conditions = stopConditions(request.params, this.#base.config, this.#options.tokenizer);
      const seed = request.params.seed ?? randomBytes(8).readBigUInt64LE();
      const sequences = Array.from(
        { length: request.numSamples },
        (_, i) =>
          new Sequence(
            i,
            request.params,
            seed,
            limit,
            new StopMatcher(conditions),
            request.topkSampleLogprobs,
          ),
      );
      const job: Job = {
        request,
        adapter,
        seed,
        options,
        sequences,
        started: 0,
        scores: {},
        scored: false,
        resolve,
        reject,
        settled: false,
      };
      options.signal?.addEventListener(
        'abort',
        () => this.#fail(job, new EngineError('user', 'The sample was cancelled.')),
        { once: true },
      );
      if (options.signal?.aborted)
        return this.#fail(job, new EngineError('user', 'The sample was cancelled.'));
      this.#waiting.push(job);
    });
  }

  /** Resolves when no request uses the adapter any more, so that it may be freed. */
  async whenUnused(adapter: LoraAdapter | undefined): Promise<void> {
    while (this.#jobs().some((job) => job.adapter === adapter))
      await new Promise((resolve) => setTimeout(resolve, 20));
  }

  #jobs(): Job[] {
    return [...this.#waiting, ...this.#running.flatMap((entry) => (entry ? [entry.job] : []))];
  }

  /** One prefill or one decode step. */
  work(): void {
    const group = this.#nextGroup();
    try {
      if (group.length > 0)
        profiled(
          'unit',
          'prefill',
          () => this.#prefill(group),
          () => prefillArgs(group),
        );
      else if (this.#running.some(Boolean)) {
        const batch = this.activeSequences;
        profiled(
          'unit',
          'decode step',
          () => this.#decode(),
          () => ({ batch, tokens: batch }),
        );
      }
    } catch (error) {
      this.#failAll(
        error as Error,
        group.map(({ job }) => job),
      );
    }
  }

  /** Waiting jobs that can be prefilled together now: same adapter, similar length, within slots, tokens and KV memory. */
  #nextGroup(): { job: Job; count: number }[] {
    const group: { job: Job; count: number }[] = [];
    let free = this.#options.maxSlots - this.activeSequences;
    let width = 0;
    for (const job of this.#waiting) {
      if (free <= 0) break;
      const first = group[0]?.job;
      if (first && job.adapter !== first.adapter) continue;
      const nextWidth = Math.max(width, bucketWidth(job.request.prompt.length));
      const tooMuch =
        first && (nextWidth * (group.length + 1) > this.#options.prefillTokens || width !== nextWidth);
      if (tooMuch) continue;
      const count = Math.min(free, job.sequences.length - job.started);
      if (
        !this.#fitsMemory(job, count + group.reduce((sum, g) => sum + g.count, 0)) &&
        (first || this.activeSequences > 0)
      )
        continue;
      group.push({ job, count });
      free -= count;
      width = nextWidth;
    }
    return group;
  }

  #fitsMemory(job: Job, added: number): boolean {
    const { heads, keyDim, valueDim } = this.#base.cacheShape();
    const perPosition = 4 * this.#base.config.numLayers * heads * (keyDim + valueDim);
    const positions = Math.max(this.#cache.capacity, bucketWidth(job.request.prompt.length + RECENT));
    return (this.activeSequences + added) * positions * perPosition <= this.#options.kvBudgetBytes;
  }

  #prefill(group: { job: Job; count: number }[]): void {
    const width = bucketWidth(Math.max(...group.map(({ job }) => job.request.prompt.length)));
    const ids = new Int32Array(group.length * width);
    group.forEach(({ job }, row) => {
      ids.set(job.request.prompt, row * width);
    });
    const adapter = group[0]!.job.adapter;
    const stacked = stackAdapters([adapter], this.#base.layers.length);
    const idTensor = tf.tensor2d(ids, [group.length, width], 'int32');
    const { x, cached } = this.#decoder.prefill(idTensor, stacked);
    group.forEach(({ job }, row) => {
      this.#scorePrompt(job, x, row, adapter);
    });
    const started = group.flatMap(({ job, count }, row) => {
      const sequences = job.sequences.slice(job.started, job.started + count);
      job.started += count;
      return sequences.map((sequence) => ({ job, sequence, row }));
    });
    this.#removeStarted();
    this.#firstTokens(x, started, stacked, width);
    const alive = started.filter(({ job, sequence }) => !sequence.finished && !job.settled);
    if (alive.length > 0) this.#rebuild(alive, { ...cached, width });
    tf.dispose([idTensor, x, ...cached.k, ...cached.v]);
    for (const { job } of group) this.#settle(job);
  }

  #scorePrompt(job: Job, x: Tensor, row: number, adapter: LoraAdapter | undefined): void {
    if (job.scored || !wantsPromptScores(job.request)) return;
    const [, width, hidden] = x.shape as [number, number, number];
    const own = tf.slice(x, [row, 0, 0], [1, width, hidden]);
    job.scores = this.#scorer.score(job.request, own, adapter, job.seed);
    job.scored = true;
    own.dispose();
  }

  #firstTokens(
    x: Tensor,
    started: (Running & { row: number })[],
    stacked: StackedAdapters,
    width: number,
  ): void {
    const hidden = x.shape[2] as number;
    const last = started.map(({ job, row }) => row * width + job.request.prompt.length - 1);
    const rows = tf.tidy(() => {
      const flat = tf.reshape(x, [-1, hidden]);
      return tf.reshape(tf.gather(flat, tf.tensor1d(padTo(last, bucketSlots(last.length)), 'int32')), [
        -1,
        1,
        hidden,
      ]);
    });
    this.#appendTokens(rows, started, stacked);
    rows.dispose();
  }

  #decode(): void {
    const alive = this.#running.filter(Boolean).length;
    if (this.#cache.isFull || bucketSlots(alive) < this.#cache.slots) this.#rebuild([], undefined);
    const tokens = Int32Array.from(
      { length: this.#cache.slots },
      (_, slot) => this.#running[slot]?.sequence.lastToken ?? 0,
    );
    const x = this.#decoder.step(tokens, this.#cache, this.#adapters!);
    const running = [...this.#running];
    this.#appendTokens(x, running, this.#adapters!);
    x.dispose();
    running.forEach((entry, slot) => {
      if (!entry || (!entry.sequence.finished && !entry.job.settled)) return;
      this.#running[slot] = undefined;
      this.#settle(entry.job);
    });
    if (!this.#running.some(Boolean)) this.#clear();
  }

  /** Draws the next token of each entry from hidden rows [rows, 1, hidden]; entries beyond the list are padding. */
  #appendTokens(x: Tensor, entries: (Running | undefined)[], stacked: StackedAdapters): void {
    const picked = pickTokens(
      this.#decoder,
      x,
      stacked.head,
      entries.map(
        (entry) => entry && { sequence: entry.sequence, topk: entry.job.request.topkSampleLogprobs },
      ),
    );
    entries.forEach((entry, row) => {
      const choice = picked[row];
      if (!entry || !choice || entry.job.settled) return;
      entry.sequence.append(choice.token, choice.logprob, choice.topk);
      this.sampledTokens++;
      entry.job.options.onProgress?.({
        sequence: entry.sequence.index,
        tokens: Int32Array.of(choice.token),
        logprobs: Float32Array.of(choice.logprob),
      });
    });
  }

  /** Builds the cache anew from running sequences and freshly prefilled ones. */
  #rebuild(
    added: (Running & { row: number })[],
    prefilled: { k: Tensor[]; v: Tensor[]; width: number } | undefined,
  ): void {
    const kept = this.#running.flatMap((entry, slot) => (entry ? [{ entry, slot }] : []));
    const sources: SlotSource[] = [
      ...kept.map(({ slot }): SlotSource => ({ from: 'slot', slot, length: this.#cache.length(slot) })),
      ...added.map(
        ({ job, row }): SlotSource => ({ from: 'prefill', row, length: job.request.prompt.length }),
      ),
    ];
    const slots = bucketSlots(sources.length);
    const capacity = bucketWidth(Math.max(...sources.map(({ length }) => length)));
    this.#cache.rebuild(sources, slots, capacity, prefilled);
    const entries = [
      ...kept.map(({ entry }) => entry),
      ...added.map(({ job, sequence }) => ({ job, sequence })),
    ];
    this.#running = Array.from({ length: slots }, (_, i) => entries[i]);
    tf.dispose(this.#adapters?.owned ?? []);
    const first = entries[0]!.job.adapter;
    const rows = this.#running.map((entry) => (entry ? entry.job.adapter : first));
    this.#adapters = stackAdapters(rows, this.#base.layers.length);
  }

  #removeStarted(): void {
    for (let i = this.#waiting.length - 1; i >= 0; i--) {
      if (this.#waiting[i]!.started === this.#waiting[i]!.sequences.length) this.#waiting.splice(i, 1);
    }
  }

  #settle(job: Job): void {
    if (
      job.settled ||
      job.started < job.sequences.length ||
      job.sequences.some((sequence) => !sequence.finished)
    )
      return;
    job.settled = true;
    job.resolve({
      promptCacheHitTokens: 0,
      ...job.scores,
      sequences: job.sequences.map((sequence) => sequence.result()),
    });
  }

  #fail(job: Job, error: Error): void {
    if (job.settled) return;
    job.settled = true;
    const at = this.#waiting.indexOf(job);
    if (at >= 0) this.#waiting.splice(at, 1);
    this.#running = this.#running.map((entry) => (entry?.job === job ? undefined : entry));
    job.reject(error);
  }

  /** @param others Jobs that are neither waiting nor running, because they failed in between. */
  #failAll(error: Error, others: Job[] = []): void {
    const jobs = new Set([...this.#jobs(), ...others]);
    for (const job of jobs)
      this.#fail(
        job,
        error instanceof EngineError
          ? error
          : new EngineError('server', `Sampling failed: ${error.message}`, { cause: error }),
      );
    this.#clear();
  }

  #clear(): void {
    this.#running = [];
    this.#cache.dispose();
    tf.dispose(this.#adapters?.owned ?? []);
    this.#adapters = undefined;
  }

  dispose(): void {
    this.#failAll(new EngineError('server', 'The engine is shutting down.'));
  }
}

/** A prefill as profiles show it: prompts and the sequences that go on from them. */
function prefillArgs(group: { job: Job; count: number }[]) {
  const lengths = group.map(({ job }) => job.request.prompt.length);
  return {
    sampler: [...new Set(group.map(({ job }) => job.request.samplerId))].join(),
    batch: group.length,
    width: bucketWidth(Math.max(...lengths)),
    tokens: lengths.reduce((sum, length) => sum + length, 0),
    sequences: group.reduce((sum, { count }) => sum + count, 0),
  };
}

/** Slots are padded to these counts, so that few shapes are compiled. */
function bucketSlots(count: number): number {
  return SLOT_BUCKETS.find((bucket) => bucket >= count) ?? count;
}

function padTo(values: number[], length: number): number[] {
  return [...values, ...new Array(length - values.length).fill(values[0] ?? 0)];
}

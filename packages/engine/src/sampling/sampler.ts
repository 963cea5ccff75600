/**
 * Continuous batching over one base model: prompts are prefilled in groups, and all running sequences, of whatever adapter,
 * take each decode step together. `work()` does one such unit, so that the scheduler can share the device.
 */

import { randomBytes } from 'node:crypto';
import { profiled, type Tensor, tf } from '@anneal/tensorflow';
import { StopMatcher, type Tokenizer } from '@anneal/tokenizer';
import { EngineError, type SampleOptions, type SampleRequest, type SampleResult } from '../engine.ts';
import type { LoraAdapter } from '../lora/adapter.ts';
import { type StackedAdapters, stackAdapters } from '../lora/adapter-stack.ts';
import type { CacheShape } from '../models/architecture.ts';
import type { BaseModel } from '../models/base-model.ts';
import { bucketWidth } from '../training/batch-plan.ts';
import type { HeadPass } from '../training/head-pass.ts';
import { BatchAdapters } from './batch-adapters.ts';
import type { PrefilledRows } from './cached-rows.ts';
import { checkSampleRequest, stopConditions } from './check-request.ts';
import { Decoder } from './decoder.ts';
import { FairTurns } from './fair-turns.ts';
import { cancelled, type Job, type PrefillGroup, prefillArgs, type Running } from './job.ts';
import { cacheBytes, KvCache, RECENT, type SlotSource } from './kv-cache.ts';
import { pickTokens } from './pick-tokens.ts';
import { MIN_SHARED, PrefixCache, type PrefixHit } from './prefix-cache.ts';
import { PromptPass } from './prompt-pass.ts';
import { PromptRows } from './prompt-rows.ts';
import { PromptScorer, wantsPromptScores } from './prompt-scores.ts';
import { Sequence } from './sequence.ts';

export interface SamplerOptions {
  /** Sequences that decode together at most. */
  maxSlots: number;
  /** Bytes that keys and values may take. */
  kvBudgetBytes: number;
  /** Bytes that keys and values of earlier prompts may take. */
  prefixBudgetBytes?: number;
  /** Longer prompts are prefilled in pieces of this many tokens. */
  pieceTokens?: number;
  /** Padded prompt tokens that one prefill takes on. */
  prefillTokens: number;
  xla: boolean;
  tokenizer: () => Tokenizer;
}

const PREFIX_BYTES = 2 ** 28;
/** Long enough to keep the device busy, short enough for others to wait for. */
const PIECE_TOKENS = 512;

const SLOT_BUCKETS = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128];

export class Sampler {
  readonly #base: BaseModel;
  readonly #options: SamplerOptions;
  readonly #decoder: Decoder;
  readonly #scorer: PromptScorer;
  readonly #shapes: CacheShape[];
  readonly #cache: KvCache;
  readonly #prefixes: PrefixCache;
  readonly #turns = new FairTurns();
  #prefilledLast = false;
  readonly #waiting: Job[] = [];
  /** By slot; undefined where a sequence has ended. */
  #running: (Running | undefined)[] = [];
  readonly #batchAdapters: BatchAdapters;
  #adapters: StackedAdapters | undefined;
  sampledTokens = 0;

  constructor(base: BaseModel, head: HeadPass, options: SamplerOptions) {
    this.#base = base;
    this.#options = options;
    this.#decoder = new Decoder(base, { xla: options.xla });
    this.#scorer = new PromptScorer(base, head);
    this.#batchAdapters = new BatchAdapters(base);
    this.#shapes = base.cacheShapes();
    this.#prefixes = new PrefixCache(options.prefixBudgetBytes ?? PREFIX_BYTES, {
      wholeOnly: this.#shapes.some((shape) => 'state' in shape),
    });
    this.#cache = new KvCache(this.#shapes);
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
        pass: undefined,
        cachedTokens: 0,
        started: 0,
        scores: {},
        scored: false,
        resolve,
        reject,
        settled: false,
      };
      options.signal?.addEventListener('abort', () => this.#fail(job, cancelled()), { once: true });
      if (options.signal?.aborted) return this.#fail(job, cancelled());
      this.#waiting.push(job);
    });
  }

  /** Resolves when no request uses the adapter any more, so that it may be freed; what it computed is forgotten. */
  async whenUnused(adapter: LoraAdapter | undefined): Promise<void> {
    while (this.#jobs().some((job) => job.adapter === adapter))
      await new Promise((resolve) => setTimeout(resolve, 20));
    if (adapter) this.#prefixes.forget(adapter);
  }

  #jobs(): Job[] {
    return [...this.#waiting, ...this.#running.flatMap((entry) => (entry ? [entry.job] : []))];
  }

  /** One prefill, one piece of a long one, or one decode step. While sequences run, prefills and decode steps take turns. */
  work(): void {
    const group = this.#prefilledLast && this.#running.some(Boolean) ? [] : this.#nextGroup();
    this.#prefilledLast = group.length > 0;
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

  /**
   * Waiting jobs that can be prefilled together now: same adapter, similar length, within slots, tokens and KV memory. One that
   * goes in pieces goes alone, and one that begins like another of the group waits for what that computes.
   */
  #nextGroup(): PrefillGroup {
    const group: PrefillGroup = [];
    let free = this.#options.maxSlots - this.activeSequences;
    let width = 0;
    if (free <= 0) return group;
    for (const job of this.#turns.ordered(this.#waiting)) {
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
      const alone = this.#goesInPieces(job);
      if (alone && !first) return [{ job, count }];
      if (alone || group.some((other) => this.#beginsLike(job, other.job))) continue;
      group.push({ job, count });
      free -= count;
      width = nextWidth;
    }
    return group;
  }

  /** Whether it is better to wait for what the other's prompt leaves in the prefix cache. */
  #beginsLike({ request: { prompt } }: Job, { request: other }: Job): boolean {
    const usable = this.#prefixes.usableLength(other.prompt, prompt);
    return usable >= MIN_SHARED && usable >= prompt.length / 2;
  }

  get #pieceTokens(): number {
    return this.#options.pieceTokens ?? PIECE_TOKENS;
  }

  #goesInPieces(job: Job): boolean {
    return (
      job.pass !== undefined ||
      job.request.prompt.length > this.#pieceTokens ||
      this.#cachedBeginning(job) !== undefined
    );
  }

  /** Scores need every position's hidden states, which are not kept. */
  #cachedBeginning(job: Job): PrefixHit | undefined {
    if (wantsPromptScores(job.request) && !job.scored) return undefined;
    const { prompt } = job.request;
    const hit = this.#prefixes.find(job.adapter, prompt);
    return hit && hit.length >= prompt.length / 4 ? hit : undefined;
  }

  #fitsMemory(job: Job, added: number): boolean {
    const positions = Math.max(this.#cache.capacity, bucketWidth(job.request.prompt.length + RECENT));
    return cacheBytes(this.#shapes, this.activeSequences + added, positions) <= this.#options.kvBudgetBytes;
  }

  #prefill(group: PrefillGroup): void {
    const [{ job }] = group as [PrefillGroup[number]];
    for (const { job: given, count } of group)
      this.#turns.note(given.request.samplerId, given.request.prompt.length + count);
    if (this.#goesInPieces(job)) this.#prefillPiece(group[0]!);
    else this.#prefillTogether(group);
  }

  #prefillTogether(group: PrefillGroup): void {
    const width = bucketWidth(Math.max(...group.map(({ job }) => job.request.prompt.length)));
    const ids = new Int32Array(group.length * width);
    group.forEach(({ job }, row) => {
      ids.set(job.request.prompt, row * width);
    });
    const adapter = group[0]!.job.adapter;
    const stacked = stackAdapters([adapter], this.#base.layers.length);
    const idTensor = tf.tensor2d(ids, [group.length, width], 'int32');
    const lengths = group.map(({ job }) => job.request.prompt.length);
    const { x, cached } = this.#decoder.prefill(idTensor, lengths, stacked);
    group.forEach(({ job }, row) => {
      this.#scorePrompt(job, x, row, adapter);
    });
    this.#start(group, stacked, { x, width, last: (row, length) => row * width + length - 1 }, cached);
    group.forEach(({ job: { request } }, row) => {
      const count = request.prompt.length;
      if (count < MIN_SHARED) return;
      const capacity = bucketWidth(count);
      const rows = PromptRows.joined(undefined, cached, { row, count, capacity });
      this.#prefixes.put(adapter, request.prompt, rows);
    });
    tf.dispose([idTensor, x, cached.layers]);
  }

  #prefillPiece({ job, count }: PrefillGroup[number]): void {
    const { adapter, request } = job;
    const adapters = stackAdapters([adapter], this.#base.layers.length);
    job.pass ??= this.#startPass(job, adapters);
    job.pass.step();
    if (!job.pass.finished) return;
    const { x, rows } = job.pass.take();
    job.pass = undefined;
    this.#scorePrompt(job, x, 0, adapter);
    const last = (x.shape[1] as number) - 1;
    const cached = { layers: rows.layers, width: rows.capacity };
    this.#start([{ job, count }], adapters, { x, width: rows.capacity, last: () => last }, cached);
    this.#prefixes.put(adapter, request.prompt, rows);
    x.dispose();
  }

  #startPass(job: Job, adapters: StackedAdapters): PromptPass {
    const hit = this.#cachedBeginning(job);
    if (hit) this.#prefixes.touch(hit.rows);
    job.cachedTokens = Math.max(job.cachedTokens, job.started === 0 ? (hit?.length ?? 0) : 0);
    return new PromptPass(this.#decoder, {
      prompt: job.request.prompt,
      adapters,
      hit,
      pieceTokens: this.#pieceTokens,
      keepHidden: wantsPromptScores(job.request) && !job.scored,
    });
  }

  /** Draws the first tokens of prefilled jobs, and lets those that go on join the decode batch. */
  #start(
    group: PrefillGroup,
    stacked: StackedAdapters,
    hidden: { x: Tensor; width: number; last: (row: number, length: number) => number },
    cached: PrefilledRows,
  ): void {
    const started = group.flatMap(({ job, count }, row) => {
      const sequences = job.sequences.slice(job.started, job.started + count);
      job.started += count;
      return sequences.map((sequence) => ({ job, sequence, row }));
    });
    this.#removeStarted();
    const last = started.map(({ job, row }) => hidden.last(row, job.request.prompt.length));
    this.#firstTokens(hidden.x, started, stacked, last);
    const alive = started.filter(({ job, sequence }) => !sequence.finished && !job.settled);
    if (alive.length > 0) this.#rebuild(alive, cached);
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

  #firstTokens(x: Tensor, started: Running[], stacked: StackedAdapters, last: number[]): void {
    const hidden = x.shape[2] as number;
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
      this.#remember(entry, slot);
      this.#running[slot] = undefined;
      this.#settle(entry.job);
    });
    if (!this.#running.some(Boolean)) this.#clear();
  }

  /** Keeps a conversation for its next turn; of several samples of one prompt, only the prompt was worth keeping. */
  #remember({ job, sequence }: Running, slot: number): void {
    if (job.sequences.length > 1 || job.settled) return;
    const tokens = Int32Array.from([...job.request.prompt, ...sequence.tokens]).subarray(
      0,
      this.#cache.length(slot),
    );
    if (tokens.length >= MIN_SHARED) this.#prefixes.put(job.adapter, tokens, this.#cache.extract(slot));
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
  #rebuild(added: (Running & { row: number })[], prefilled: PrefilledRows | undefined): void {
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
    const first = entries[0]!.job.adapter;
    const rows = this.#running.map((entry) => (entry ? entry.job.adapter : first));
    this.#adapters = this.#batchAdapters.of(rows);
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
      promptCacheHitTokens: job.cachedTokens,
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
    job.pass?.dispose();
    job.pass = undefined;
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
    this.#batchAdapters.dispose();
    this.#adapters = undefined;
  }

  dispose(): void {
    this.#failAll(new EngineError('server', 'The engine is shutting down.'));
    this.#prefixes.dispose();
  }
}

/** Slots are padded to these counts, so that few shapes are compiled. */
function bucketSlots(count: number): number {
  return SLOT_BUCKETS.find((bucket) => bucket >= count) ?? count;
}

function padTo(values: number[], length: number): number[] {
  return [...values, ...new Array(length - values.length).fill(values[0] ?? 0)];
}

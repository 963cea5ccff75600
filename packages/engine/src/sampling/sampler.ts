/**
 * Continuous batching over one base model: prompts are prefilled in groups, and all running sequences, of whatever adapter,
 * take each decode step together. `work()` does one such unit, so that the scheduler can share the device.
 */

import { randomBytes } from 'node:crypto';
import { profiled, type Tensor, tf } from '@anneal/tensorflow';
import { StopMatcher, type Tokenizer } from '@anneal/tokenizer';
import {
  type CacheUse,
  EngineError,
  type SampleOptions,
  type SampleRequest,
  type SampleResult,
} from '../engine.ts';
import type { LoraAdapter } from '../lora/adapter.ts';
import type { BaseModel } from '../models/base-model.ts';
import { bucketWidth } from '../training/batch-plan.ts';
import type { HeadPass } from '../training/head-pass.ts';
import { checkImages } from '../vision/check-images.ts';
import { positionShift } from '../vision/placed-images.ts';
import { prefixKey } from '../vision/prefix-key.ts';
import { Admission, type AdmissionLimits } from './admission.ts';
import { BatchAdapters, type BatchedAdapters } from './batch-adapters.ts';
import type { PrefilledRows } from './cached-rows.ts';
import { checkSampleRequest, stopConditions } from './check-request.ts';
import { bucketSlots, DecodeBatch } from './decode-batch.ts';
import { Decoder } from './decoder.ts';
import { FairTurns } from './fair-turns.ts';
import { cancelled, type Job, type PrefillGroup, prefillArgs, type Running } from './job.ts';
import { pickTokens } from './pick-tokens.ts';
import { MIN_SHARED, PrefixCache } from './prefix-cache.ts';
import { PromptPass } from './prompt-pass.ts';
import { PromptRows } from './prompt-rows.ts';
import { PromptScorer, wantsPromptScores } from './prompt-scores.ts';
import { Sequence } from './sequence.ts';

export interface SamplerOptions extends Omit<AdmissionLimits, 'pieceTokens' | 'fused' | 'layout'> {
  pieceTokens?: number;
  /** Bytes that keys and values of earlier prompts may take. */
  prefixBudgetBytes?: number;
  xla: boolean;
  tokenizer: () => Tokenizer;
}

const PREFIX_BYTES = 2 ** 28;
/** Long enough to keep the device busy, short enough for others to wait for. */
const PIECE_TOKENS = 512;

export class Sampler {
  readonly #base: BaseModel;
  readonly #options: SamplerOptions;
  readonly #decoder: Decoder;
  readonly #scorer: PromptScorer;
  /** Of prompts; the decode batch has its own. */
  readonly #promptAdapters: BatchAdapters;
  readonly #batch: DecodeBatch;
  readonly #admission: Admission;
  readonly #pieceTokens: number;
  readonly #prefixes: PrefixCache;
  readonly #turns = new FairTurns();
  #prefilledLast = false;
  readonly #waiting: Job[] = [];
  sampledTokens = 0;

  constructor(base: BaseModel, head: HeadPass, options: SamplerOptions) {
    this.#base = base;
    this.#options = options;
    this.#decoder = new Decoder(base, { xla: options.xla });
    this.#promptAdapters = new BatchAdapters(base, this.#decoder);
    this.#scorer = new PromptScorer(base, head);
    this.#pieceTokens = options.pieceTokens ?? PIECE_TOKENS;
    const shapes = base.cacheShapes();
    this.#prefixes = new PrefixCache(options.prefixBudgetBytes ?? PREFIX_BYTES, {
      wholeOnly: shapes.some((shape) => 'state' in shape),
    });
    this.#batch = new DecodeBatch(base, shapes, this.#decoder);
    const { fused, layout } = this.#decoder;
    const limits = { ...options, pieceTokens: this.#pieceTokens, fused, layout };
    this.#admission = new Admission(limits, shapes, this.#prefixes, this.#turns);
  }

  get activeSequences(): number {
    return this.#batch.active;
  }

  get waitingSequences(): number {
    return this.#waiting.reduce((sum, job) => sum + job.sequences.length - job.started, 0);
  }

  get cacheUse(): CacheUse {
    return {
      ...this.#batch.cacheUse,
      limitBytes: this.#options.kvBudgetBytes,
      prefixBytes: this.#prefixes.bytes,
      prefixLimitBytes: this.#prefixes.budgetBytes,
    };
  }

  get hasWork(): boolean {
    return this.#waiting.length > 0 || this.activeSequences > 0;
  }

  /** Queues a request. The adapter must stay alive until the promise settles. */
  submit(
    request: SampleRequest,
    adapter: LoraAdapter | undefined,
    options: SampleOptions = {},
  ): Promise<SampleResult> {
    return new Promise((resolve, reject) => {
      const { limit } = checkSampleRequest(request, this.#base.config);
      const { prompt, images = [] } = request;
      checkImages('prompt', { tokens: prompt, images }, this.#base);
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
        key: prefixKey(this.#base, prompt, images),
        positionShift: positionShift(this.#base, prompt.length, images),
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
    if (!adapter) return;
    this.#prefixes.forget(adapter);
    this.#decoder.forget(adapter);
  }

  #jobs(): Job[] {
    return [...this.#waiting, ...this.#batch.jobs];
  }

  /** One prefill, one piece of a long one, or one decode step. While sequences run, prefills and decode steps take turns. */
  work(): void {
    const group = this.#prefilledLast && this.activeSequences > 0 ? [] : this.#nextGroup();
    this.#prefilledLast = group.length > 0;
    try {
      if (group.length > 0)
        profiled(
          'unit',
          'prefill',
          () => this.#prefill(group),
          () => prefillArgs(group),
        );
      else if (this.activeSequences > 0) {
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

  #nextGroup(): PrefillGroup {
    return this.#admission.nextGroup(this.#waiting, {
      active: this.#batch.active,
      capacity: this.#batch.capacity,
    });
  }

  #prefill(group: PrefillGroup): void {
    const [{ job }] = group as [PrefillGroup[number]];
    for (const { job: given, count } of group)
      this.#turns.note(given.request.samplerId, given.request.prompt.length + count);
    if (this.#admission.goesInPieces(job)) this.#prefillPiece(group[0]!);
    else this.#prefillTogether(group);
  }

  #prefillTogether(group: PrefillGroup): void {
    const adapters = this.#promptAdapters.of(group.map(({ job }) => job.adapter));
    const prompts = group.map(({ job }) => job.request.prompt);
    const { x, cached } = this.#decoder.prefill(prompts, adapters);
    group.forEach(({ job }, row) => {
      this.#scorePrompt(job, x, cached.starts[row]!);
    });
    const last = prompts.map(({ length }, row) => cached.starts[row]! + length - 1);
    this.#start(group, { x, last }, cached);
    const { storage } = this.#decoder.layout;
    group.forEach(({ job: { key, adapter } }, row) => {
      const count = key.length;
      if (count < MIN_SHARED) return;
      const capacity = bucketWidth(count);
      const rows = PromptRows.joined(undefined, cached, { row, count, capacity, storage });
      this.#prefixes.put(adapter, key, rows);
    });
    tf.dispose([x, cached.layers]);
  }

  #prefillPiece({ job, count }: PrefillGroup[number]): void {
    const { adapter, key } = job;
    job.pass ??= this.#startPass(job);
    job.pass.step();
    if (!job.pass.finished) return;
    const { x, rows } = job.pass.take();
    job.pass = undefined;
    this.#scorePrompt(job, x, 0);
    const last = [(x.shape[0] as number) - 1];
    this.#start([{ job, count }], { x, last }, { layers: rows.layers, starts: [0] });
    this.#prefixes.put(adapter, key, rows);
    x.dispose();
  }

  #startPass(job: Job): PromptPass {
    const hit = this.#admission.cachedBeginning(job);
    if (hit) this.#prefixes.touch(hit.rows);
    job.cachedTokens = Math.max(job.cachedTokens, job.started === 0 ? (hit?.length ?? 0) : 0);
    return new PromptPass(this.#decoder, {
      prompt: job.request.prompt,
      images: job.request.images ?? [],
      // One adapter's own tensors: what others are joined into afterwards does not touch them.
      adapters: this.#promptAdapters.of([job.adapter]),
      hit,
      pieceTokens: this.#pieceTokens,
      keepHidden: wantsPromptScores(job.request) && !job.scored,
    });
  }

  /**
   * Draws the first tokens of prefilled jobs, and lets those that go on join the decode batch.
   * @param hidden Hidden states [positions, hidden], and the last position of each job of the group
   */
  #start(group: PrefillGroup, hidden: { x: Tensor; last: number[] }, cached: PrefilledRows): void {
    const started = group.flatMap(({ job, count }, row) => {
      const sequences = job.sequences.slice(job.started, job.started + count);
      job.started += count;
      return sequences.map((sequence) => ({ job, sequence, row }));
    });
    this.#removeStarted();
    this.#firstTokens(
      hidden.x,
      started,
      started.map(({ row }) => hidden.last[row]!),
    );
    const alive = started.filter(({ job, sequence }) => !sequence.finished && !job.settled);
    if (alive.length > 0) this.#batch.join(alive, cached);
    for (const { job } of group) this.#settle(job);
  }

  /** @param start Where the prompt begins in x, [positions, hidden] */
  #scorePrompt(job: Job, x: Tensor, start: number): void {
    if (job.scored || !wantsPromptScores(job.request)) return;
    const { length } = job.request.prompt;
    // Few widths: functions are compiled for each.
    const padding = bucketWidth(length) - length;
    const own = tf.tidy(() => {
      const rows = tf.slice(x, [start, 0], [length, -1]);
      return tf.expandDims(
        tf.pad(rows, [
          [0, padding],
          [0, 0],
        ]),
        0,
      );
    }) as Tensor;
    job.scores = this.#scorer.score(job.request, own, job.adapter, job.seed);
    job.scored = true;
    own.dispose();
  }

  #firstTokens(x: Tensor, started: Running[], last: number[]): void {
    const slots = bucketSlots(started.length);
    const rows = tf.tidy(() =>
      tf.expandDims(tf.gather(x, tf.tensor1d(padTo(last, slots), 'int32') as never), 1),
    ) as Tensor;
    const adapters = padTo(
      started.map(({ job }) => job.adapter),
      slots,
    );
    this.#appendTokens(rows, started, this.#promptAdapters.of(adapters));
    rows.dispose();
  }

  #decode(): void {
    this.#batch.step(this.#decoder, (x, entries, adapters) => this.#appendTokens(x, entries, adapters));
    const ended: Job[] = [];
    this.#batch.removeEnded((entry, kept) => {
      this.#remember(entry, kept);
      ended.push(entry.job);
    });
    for (const job of ended) this.#settle(job);
  }

  /** Keeps a conversation for its next turn; of several samples of one prompt, only the prompt was worth keeping. */
  #remember({ job, sequence }: Running, kept: { length: number; extract: () => PromptRows }): void {
    if (job.sequences.length > 1 || job.settled) return;
    const tokens = Int32Array.from([...job.key, ...sequence.tokens]).subarray(0, kept.length);
    if (tokens.length >= MIN_SHARED) this.#prefixes.put(job.adapter, tokens, kept.extract());
  }

  /** Draws the next token of each entry from hidden rows [rows, 1, hidden]; entries beyond the list are padding. */
  #appendTokens(x: Tensor, entries: (Running | undefined)[], adapters: BatchedAdapters): void {
    const picked = pickTokens(
      this.#decoder,
      x,
      adapters,
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
    this.#batch.drop(job);
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
    this.#batch.clear();
  }

  dispose(): void {
    this.#failAll(new EngineError('server', 'The engine is shutting down.'));
    this.#prefixes.dispose();
    this.#promptAdapters.dispose();
    this.#decoder.dispose();
  }
}

/** Repeats the first of them until there are `length`. */
function padTo<T>(values: T[], length: number): T[] {
  return [...values, ...new Array<T>(length - values.length).fill(values[0]!)];
}

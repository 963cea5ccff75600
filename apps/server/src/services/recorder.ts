import type { AdamParams, SampleRequest, SampleResult } from '@anneal/engine';
import type { DayUsage, Rollout, RunSettings, Sampler, StepMetrics, Store, TrainingRun } from '@anneal/store';
import type { FastifyBaseLogger } from 'fastify';
import { AdvantageMatcher } from './advantage-matcher.ts';
import { rolloutOf } from './rollout-record.ts';
import { type Pass, StepAccumulator } from './step-metrics.ts';

export interface RecorderOptions {
  /** Steps kept per run; 0 records none. */
  metricSteps: number;
  /** Sampling requests kept per session; 0 records none. */
  rollouts: number;
}

/** What was written just now, for those who watch. */
export type Recorded =
  | { type: 'metrics'; owner: string; runId: string; steps: StepMetrics[] }
  | { type: 'rollouts'; owner: string; sessionId: string };

type Counts = Omit<DayUsage, 'owner' | 'day'>;

/** What an owner used just now. */
export interface Used extends Counts {
  owner: string;
  /** Of an optimizer step: the time from its first pass to its end. */
  stepSeconds?: number;
}

type Advantage = ReturnType<AdvantageMatcher['match']>[number];

const FLUSH_MS = 500;
/** Waiting for the next write; beyond them, the oldest are dropped. */
const MAX_WAITING_STEPS = 10_000;
const MAX_WAITING_ROLLOUTS = 1000;
/** A gradient that no step uses is forgotten after this time. */
const FORGET_PASSES_MS = 3_600_000;

/**
 * Records what people look at later: metrics of steps, sampled texts, usage. Nothing waits for it: calls only note, and a
 * timer writes what has gathered.
 */
export class Recorder {
  readonly #store: Store;
  readonly #log: FastifyBaseLogger;
  readonly #options: RecorderOptions;
  readonly #passes = new Map<string, StepAccumulator>();
  readonly #lastEnds = new Map<string, number>();
  readonly #settings = new Map<string, RunSettings>();
  readonly #matcher = new AdvantageMatcher();
  readonly #listeners = new Set<(recorded: Recorded) => void>();
  readonly #usageListeners = new Set<(used: Used) => void>();
  #steps: (StepMetrics & { owner: string })[] = [];
  #rollouts: Rollout[] = [];
  #advantages: Advantage[] = [];
  #usage = new Map<string, DayUsage>();
  #timer: NodeJS.Timeout | undefined;
  #writing: Promise<void> = Promise.resolve();

  constructor(store: Store, log: FastifyBaseLogger, options: RecorderOptions) {
    this.#store = store;
    this.#log = log;
    this.#options = options;
  }

  get recordsRollouts(): boolean {
    return this.#options.rollouts > 0;
  }

  /** Calls back after each write, until the returned function is called. */
  onRecorded(listener: (recorded: Recorded) => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  /** Calls back with each use as it is counted, until the returned function is called. */
  onUsed(listener: (used: Used) => void): () => void {
    this.#usageListeners.add(listener);
    return () => void this.#usageListeners.delete(listener);
  }

  /** Notes a forward-backward pass of a run. */
  passed(run: TrainingRun, pass: Pass): void {
    const step = this.#passes.get(run.id) ?? new StepAccumulator();
    this.#passes.set(run.id, step);
    step.add(pass, Date.now());
    const advantages = this.recordsRollouts ? this.#matcher.match(pass.data) : [];
    if (advantages.length === 0) return;
    this.#advantages.push(...advantages);
    this.#schedule();
  }

  /** Notes an optimizer step. */
  stepped(run: TrainingRun, step: number, adam: AdamParams, metrics: Record<string, number>): void {
    const now = Date.now();
    const passes = this.#passes.get(run.id) ?? new StepAccumulator();
    this.#passes.delete(run.id);
    const joined = passes.finish(adam, metrics, now, this.#lastEnds.get(run.id) ?? 0);
    this.#lastEnds.set(run.id, now);
    this.#count(
      run.owner,
      { trainedTokens: passes.tokens, steps: 1, promptTokens: 0, sampledTokens: 0 },
      joined.step_seconds,
    );
    if (this.#options.metricSteps > 0) {
      this.#steps.push({ runId: run.id, owner: run.owner, step, at: now, metrics: joined });
      this.#steps.splice(0, this.#steps.length - MAX_WAITING_STEPS);
      this.#settings.set(run.id, settingsOf(passes.lossFn, adam));
    }
    this.#schedule();
  }

  /** Notes an answered sampling request of a session. */
  sampled(
    id: string,
    sampler: Sampler,
    request: Omit<SampleRequest, 'samplerId'>,
    result: SampleResult,
  ): void {
    this.generated(sampler.owner, request.prompt.length, result);
    // Scoring a prompt draws one token that nobody reads.
    if (!this.recordsRollouts || isScoring(request)) return;
    this.#rollouts.push(rolloutOf(id, sampler, request, result));
    this.#rollouts.splice(0, this.#rollouts.length - MAX_WAITING_ROLLOUTS);
    this.#matcher.remember(id, request.prompt, result);
    this.#schedule();
  }

  /** Notes tokens that were read and drawn, without their text. */
  generated(owner: string, promptTokens: number, { sequences }: Pick<SampleResult, 'sequences'>): void {
    const sampledTokens = sequences.reduce((sum, { tokens }) => sum + tokens.length, 0);
    this.#count(owner, { trainedTokens: 0, steps: 0, promptTokens, sampledTokens });
    this.#schedule();
  }

  /** Writes what has gathered. */
  flush(): Promise<void> {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#writing = this.#writing
      .then(() => this.#write())
      .catch((error: unknown) => {
        this.#log.warn({ err: error }, 'metrics and samples could not be recorded; some are missing now');
      });
    return this.#writing;
  }

  /** Removes what is older than these times. */
  async sweep(before: { metrics: number; rollouts: number }): Promise<void> {
    const idle = Date.now() - FORGET_PASSES_MS;
    for (const [id, { touchedAt }] of this.#passes) if (touchedAt < idle) this.#passes.delete(id);
    for (const [id, end] of this.#lastEnds) if (end < idle) this.#lastEnds.delete(id);
    await this.#store.metrics.sweep(before.metrics);
    await this.#store.dailyUsage.sweep(dayOf(before.metrics));
    await this.#store.rollouts.sweep(before.rollouts);
  }

  #count(owner: string, counts: Counts, stepSeconds?: number): void {
    const used = { owner, ...counts, ...(stepSeconds === undefined ? {} : { stepSeconds }) };
    for (const listener of this.#usageListeners) listener(used);
    const day = dayOf(Date.now());
    const key = `${day} ${owner}`;
    const known = this.#usage.get(key);
    if (!known) return void this.#usage.set(key, { owner, day, ...counts });
    known.trainedTokens += counts.trainedTokens;
    known.steps += counts.steps;
    known.promptTokens += counts.promptTokens;
    known.sampledTokens += counts.sampledTokens;
  }

  #schedule(): void {
    this.#timer ??= setTimeout(() => void this.flush(), FLUSH_MS).unref();
  }

  async #write(): Promise<void> {
    const steps = this.#steps.splice(0);
    const rollouts = this.#rollouts.splice(0);
    const advantages = this.#advantages.splice(0);
    const settings = new Map(this.#settings);
    this.#settings.clear();
    const usage = [...this.#usage.values()];
    this.#usage = new Map();
    const owners = new Map(steps.map(({ runId, owner }) => [runId, owner]));
    const [written] = await Promise.all([
      this.#store.metrics.add(steps, this.#options.metricSteps),
      this.#store.metrics.setSettings(settings),
      this.#store.rollouts.add(rollouts, this.#options.rollouts),
      this.#store.dailyUsage.add(usage),
    ]);
    await this.#store.rollouts.setAdvantages(advantages);
    for (const [runId, owner] of owners) {
      this.#tell({ type: 'metrics', owner, runId, steps: written.filter((step) => step.runId === runId) });
    }
    const sessions = new Map(rollouts.map(({ sessionId, owner }) => [sessionId, owner]));
    for (const [sessionId, owner] of sessions) this.#tell({ type: 'rollouts', owner, sessionId });
  }

  #tell(recorded: Recorded): void {
    for (const listener of this.#listeners) listener(recorded);
  }
}

/** `2026-01-31`, by UTC. */
export function dayOf(time: number): string {
  return new Date(time).toISOString().slice(0, 10);
}

function settingsOf(lossFn: string, adam: AdamParams): RunSettings {
  return {
    ...(lossFn ? { loss_fn: lossFn } : {}),
    learning_rate: adam.learningRate,
    beta1: adam.beta1,
    beta2: adam.beta2,
    eps: adam.eps,
    weight_decay: adam.weightDecay,
    grad_clip_norm: adam.gradClipNorm,
  };
}

function isScoring({
  params,
  promptLogprobs,
  topkPromptLogprobs,
}: Omit<SampleRequest, 'samplerId'>): boolean {
  return params.maxTokens === 1 && (promptLogprobs || topkPromptLogprobs > 0);
}

import { availableParallelism, totalmem } from 'node:os';
import type { Engine, EngineStatus } from '@anneal/engine';
import type { ConsoleHistory, ConsoleOverview } from '@anneal/types/console';
import type { FastifyBaseLogger } from 'fastify';
import type { BaseModels } from './base-models.ts';

const EVERY_MS = 2000;
/** A quarter of an hour. */
const KEPT = 450;
/** Rates are over this many looks: a training pass counts when it ends, and may take longer than one. */
const RATE_OVER = 5;

interface Reading {
  at: number;
  status: EngineStatus;
  trainedRate: number;
  sampledRate: number;
}

/** Looks at the engine every two seconds and remembers the last minutes. */
export class Monitor {
  readonly #engine: Engine;
  readonly #baseModels: BaseModels;
  readonly #log: FastifyBaseLogger;
  readonly #startedAt = Date.now();
  readonly #readings: Reading[] = [];
  readonly #listeners = new Set<(overview: ConsoleOverview) => void>();
  #timer: NodeJS.Timeout | undefined;
  #reading: Promise<Reading> | undefined;

  constructor(engine: Engine, baseModels: BaseModels, log: FastifyBaseLogger) {
    this.#engine = engine;
    this.#baseModels = baseModels;
    this.#log = log;
  }

  start(): void {
    this.#timer ??= setInterval(() => void this.#tick(), EVERY_MS).unref();
  }

  stop(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  /** Calls back at each look, until the returned function is called. */
  onReading(listener: (overview: ConsoleOverview) => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  /** The latest look, which is a new one where nothing looks regularly. */
  async overview(): Promise<ConsoleOverview> {
    const latest = this.#readings.at(-1);
    return this.#describe(latest && this.#timer ? latest : await this.#read());
  }

  history(): ConsoleHistory {
    return {
      at: this.#readings.map(({ at }) => at),
      trained_tokens_per_second: this.#readings.map(({ trainedRate }) => trainedRate),
      sampled_tokens_per_second: this.#readings.map(({ sampledRate }) => sampledRate),
      memory_bytes: this.#readings.map(({ status }) => status.rssBytes),
    };
  }

  async #tick(): Promise<void> {
    if (this.#reading) return;
    try {
      const overview = this.#describe(await this.#read());
      for (const listener of this.#listeners) listener(overview);
    } catch (error) {
      this.#log.debug({ err: error }, 'the engine did not tell its state');
    }
  }

  #read(): Promise<Reading> {
    this.#reading ??= this.#look().finally(() => {
      this.#reading = undefined;
    });
    return this.#reading;
  }

  async #look(): Promise<Reading> {
    const status = await this.#engine.status();
    const at = Date.now();
    const before = this.#readings.at(-RATE_OVER) ?? this.#readings[0];
    const seconds = before ? (at - before.at) / 1000 : 0;
    const rate = (now: number, then: number): number =>
      seconds > 0 ? Math.round((Math.max(now - then, 0) / seconds) * 10) / 10 : 0;
    const reading = {
      at,
      status,
      trainedRate: before ? rate(status.trainedTokens, before.status.trainedTokens) : 0,
      sampledRate: before ? rate(status.sampledTokens, before.status.sampledTokens) : 0,
    };
    this.#readings.push(reading);
    this.#readings.splice(0, this.#readings.length - KEPT);
    return reading;
  }

  #describe({ at, status, trainedRate, sampledRate }: Reading): ConsoleOverview {
    const states = new Map(status.baseModels.map(({ name, state }) => [name, state]));
    return {
      at,
      started_at: this.#startedAt,
      device: {
        backend: status.backend,
        name: status.device,
        precision: status.precision,
        cpus: availableParallelism(),
        memory_bytes: status.rssBytes,
        total_memory_bytes: totalmem(),
      },
      base_models: this.#baseModels.all.map((model) => ({
        name: model.name,
        architecture: model.arch,
        context_length: model.maxContextLength,
        layers: model.numLayers,
        state: states.get(model.name) ?? 'unloaded',
        weight_bytes: model.weightBytes,
      })),
      base_weight_bytes: status.baseWeightBytes,
      base_loads: status.baseLoads,
      base_unloads: status.baseUnloads,
      queue: {
        training_calls: status.queuedTraining,
        active_sequences: status.activeSequences,
        waiting_sequences: status.waitingSequences,
      },
      kv_cache: {
        bytes: status.kvCache.bytes,
        limit_bytes: status.kvCache.limitBytes,
        tokens: status.kvCache.tokens,
        prefix_bytes: status.kvCache.prefixBytes,
        prefix_limit_bytes: status.kvCache.prefixLimitBytes,
      },
      models_in_memory: status.models.length,
      samplers_in_memory: status.samplers,
      trained_tokens_per_second: trainedRate,
      sampled_tokens_per_second: sampledRate,
      trained_tokens: status.trainedTokens,
      sampled_tokens: status.sampledTokens,
    };
  }
}

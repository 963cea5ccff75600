import { randomUUID } from 'node:crypto';
import type { Engine, SampleRequest as EngineSample, SampleResult } from '@anneal/engine';
import type { Sampler } from '@anneal/store';
import { encodeSampleResponse, type SampleRequest, type UntypedApiFuture } from '@anneal/types';
import type { FastifyBaseLogger } from 'fastify';
import { ApiError } from '../errors.ts';
import { bodyHash } from '../wire/body-hash.ts';
import { toEncodableSample, toEngineSample } from '../wire/sample.ts';
import type { AssetStore } from './assets.ts';
import type { BaseModels } from './base-models.ts';
import { failed, protobufResult } from './failure.ts';
import type { FutureService } from './futures.ts';
import type { Recorder } from './recorder.ts';
import type { SamplerPool, Weights } from './sampler-pool.ts';
import type { SamplerService } from './samplers.ts';
import type { SessionService } from './sessions.ts';

export interface SamplingDeps {
  engine: Engine;
  baseModels: BaseModels;
  assets: AssetStore;
  sessions: SessionService;
  futures: FutureService;
  samplers: SamplerService;
  pool: SamplerPool;
  recorder: Recorder;
  log: FastifyBaseLogger;
}

interface Target {
  requestId: string;
  samplerId: string | null;
  /** Absent where the request names its weights itself. */
  sampler?: Sampler;
  seq: bigint | null;
  sessionId: string | null;
  weights: Weights;
  modelPath: string | undefined;
}

interface Running {
  owner: string;
  startedAt: number;
  sessionId: string | null;
  abort: AbortController;
  ended: Promise<void>;
}

/** Tokens that were drawn, of all samples together. */
function sampledTokens({ sequences }: SampleResult): number {
  return sequences.reduce((sum, { tokens }) => sum + tokens.length, 0);
}

/** Samples: independent of each other, run as soon as they come, ended early when nobody wants them. */
export class SamplingService {
  readonly #deps: SamplingDeps;
  readonly #maxPending: number;
  readonly #running = new Map<string, Running>();
  #closed = false;

  constructor(deps: SamplingDeps, options: { maxPending: number }) {
    this.#deps = deps;
    this.#maxPending = options.maxPending;
    deps.sessions.onEnd((sessionId) => void this.#endSession(sessionId));
  }

  get pending(): number {
    return this.#running.size;
  }

  async sample(owner: string, request: SampleRequest): Promise<UntypedApiFuture> {
    if (this.#running.size >= this.#maxPending) {
      const message = `${this.#running.size} samples are under way: slow down`;
      throw new ApiError('too_many_requests', message, { retryAfter: 1 });
    }
    const target = await this.#target(owner, request);
    const { baseModels, assets } = this.#deps;
    const model = baseModels.get(target.weights.baseModel);
    const engineRequest = await toEngineSample(request, { model, assets });
    const { requestId, samplerId, seq } = target;
    const future = { requestId, owner, kind: 'sample', modelId: null, samplerId, seq };
    if (await this.#deps.futures.submit({ ...future, bodyHash: bodyHash(request) })) {
      this.#start(owner, target, request, engineRequest);
    }
    const ids = Array.from({ length: request.num_samples }, (_, index) => `${requestId}:${index}`);
    return { request_id: requestId, sample_sequence_ids: ids };
  }

  /** Stops a sample that nobody waits for; one that is over or unknown is no error. */
  cancel(owner: string, requestId: string): void {
    const running = this.#running.get(requestId);
    if (running?.owner === owner) running.abort.abort();
  }

  /** Sessions with samples that began before this time. */
  sessionsSince(before: number): Set<string> {
    const old = [...this.#running.values()].filter(({ startedAt }) => startedAt < before);
    return new Set(old.flatMap(({ sessionId }) => sessionId ?? []));
  }

  /** Stops the samples of a session whose client is gone, those that began before `before`. */
  abortSession(sessionId: string, before = Number.POSITIVE_INFINITY): void {
    for (const running of this.#running.values()) {
      if (running.sessionId === sessionId && running.startedAt < before) running.abort.abort();
    }
  }

  /**
   * Waits for what runs, then stops the rest. What is stopped stays without a result: after the restart its client is
   * told that it is gone, and sends it again.
   */
  async close(deadlineMs: number): Promise<void> {
    const ends = [...this.#running.values()].map(({ ended }) => ended);
    await Promise.race([
      Promise.all(ends),
      new Promise((resolve) => setTimeout(resolve, deadlineMs).unref()),
    ]);
    this.#closed = true;
    for (const running of this.#running.values()) running.abort.abort();
    await Promise.all(ends);
  }

  #start(
    owner: string,
    target: Target,
    request: SampleRequest,
    sample: Omit<EngineSample, 'samplerId'>,
  ): void {
    const { requestId, sessionId } = target;
    const abort = new AbortController();
    const ended = this.#run(owner, target, request, sample, abort.signal).finally(() => {
      this.#running.delete(requestId);
      if (target.samplerId) this.#deps.futures.notifySampler(target.samplerId);
    });
    this.#running.set(requestId, { owner, startedAt: Date.now(), sessionId, abort, ended });
  }

  async #run(
    owner: string,
    target: Target,
    request: SampleRequest,
    sample: Omit<EngineSample, 'samplerId'>,
    signal: AbortSignal,
  ): Promise<void> {
    const { requestId, weights, sampler } = target;
    const { engine, pool, samplers, futures, recorder, log } = this.#deps;
    try {
      const result = await pool.use(
        weights,
        () => samplers.source(weights, target.modelPath, owner),
        (samplerId) => {
          futures.started(requestId);
          return engine.sample({ ...sample, samplerId }, { signal });
        },
      );
      const body = encodeSampleResponse(toEncodableSample(result, request));
      const detail = {
        tokens: sample.prompt.length + sampledTokens(result),
        sequences: result.sequences.length,
      };
      await futures.complete(requestId, protobufResult(body, detail));
      if (sampler) recorder.sampled(requestId, sampler, sample, result);
      else recorder.generated(owner, sample.prompt.length, result);
    } catch (error) {
      if (this.#closed) return;
      const cause = signal.aborted ? new ApiError('invalid_request', 'The sample was cancelled') : error;
      await futures.complete(requestId, failed(cause, log, requestId));
    }
  }

  async #target(owner: string, request: SampleRequest): Promise<Target> {
    const { sampling_session_id: id, seq_id: seq } = request;
    if (!id || seq == null) return await this.#direct(owner, request);
    const sampler = await this.#deps.samplers.getUsable(id, owner);
    return {
      requestId: `${id}:${seq}`,
      samplerId: id,
      sampler,
      seq,
      sessionId: sampler.sessionId,
      weights: { baseModel: sampler.baseModel, blob: sampler.blob },
      modelPath: sampler.modelPath ?? undefined,
    };
  }

  /** A sample that names its weights itself, without a sampler. */
  async #direct(owner: string, request: SampleRequest): Promise<Target> {
    const weights = await this.#deps.samplers.resolve(owner, request);
    const modelPath = request.model_path ?? undefined;
    return {
      requestId: `sample:${randomUUID()}`,
      samplerId: null,
      seq: null,
      sessionId: null,
      weights,
      modelPath,
    };
  }

  async #endSession(sessionId: string): Promise<void> {
    this.abortSession(sessionId);
    await this.#deps.samplers.endSession(sessionId).catch((error: unknown) => {
      this.#deps.log.error({ err: error, session: sessionId }, 'samplers could not be freed');
    });
  }
}

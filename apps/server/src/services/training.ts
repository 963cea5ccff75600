import type { NewFuture, Outcome, RunEffect, Store, TrainingRun } from '@anneal/store';
import type { UntypedApiFuture } from '@anneal/types';
import type { FastifyBaseLogger } from 'fastify';
import { ApiError } from '../errors.ts';
import { failed } from './failure.ts';
import type { FutureService } from './futures.ts';
import type { LiveModel, LiveModels } from './live-models.ts';
import type { SessionService } from './sessions.ts';

/** What a request did, when it succeeded. */
export interface JobResult {
  outcome: Outcome;
  /** What it did to its run, recorded together with the outcome. */
  effect?: Omit<RunEffect, 'runId'>;
  /** Runs once the outcome is recorded. */
  after?: () => Promise<void>;
}

/** A request of a model, as the service of its kind describes it. */
export interface TrainingJob {
  kind: string;
  modelId: string;
  /** Absent for clients that do not count: the request runs in the order of arrival. */
  seq: number | undefined;
  bodyHash: string;
  /** Wait until everything before it has ended. */
  barrier?: boolean;
  /** It replaces the model's state, so that a lost one does not matter. */
  replacesModel?: boolean;
  /**
   * Prepares the work and hands it to the engine; resolves as soon as the engine has the call. `ended` tells whether it
   * succeeded, once that is recorded.
   */
  run(live: LiveModel, seq: bigint, ended: Promise<boolean>): Promise<{ result: Promise<JobResult> }>;
}

export interface TrainingDeps {
  store: Store;
  sessions: SessionService;
  futures: FutureService;
  live: LiveModels;
  log: FastifyBaseLogger;
}

/** The requests of models in training: in order, each once, each with an end. */
export class TrainingService {
  readonly #deps: TrainingDeps;

  constructor(deps: TrainingDeps) {
    this.#deps = deps;
    deps.sessions.onEnd((sessionId) => void this.#endSession(sessionId));
  }

  /** @throws ApiError `not_found` when there is none of this owner. */
  async getRun(modelId: string, owner: string): Promise<TrainingRun> {
    const run = await this.#deps.store.runs.get(modelId);
    if (!run || run.owner !== owner) throw new ApiError('not_found', `model_id "${modelId}" is unknown`);
    return run;
  }

  async idsOfSession(sessionId: string): Promise<string[]> {
    return (await this.#deps.store.runs.ofSession(sessionId)).map((run) => run.id);
  }

  /** Puts a request into its model's order. */
  async submit(owner: string, job: TrainingJob): Promise<UntypedApiFuture> {
    const run = await this.getRun(job.modelId, owner);
    await this.#deps.sessions.getOpen(run.sessionId, owner);
    const live = await this.#deps.live.get(run);
    const seq = job.seq === undefined ? live.sequencer.free() : BigInt(job.seq);
    const future = futureOf(owner, job, seq);
    if (await this.#deps.futures.submit(future)) {
      live.sequencer.add({
        seq,
        barrier: job.barrier ?? false,
        start: () => this.#run(live, job, future.requestId, seq),
        abandon: (error) => void this.#fail(future.requestId, error),
      });
    }
    return { request_id: future.requestId, model_id: job.modelId };
  }

  /** A request that is refused at once still takes its number: the client goes on with the next one. */
  async refuse(
    owner: string,
    request: { kind: string; modelId: string; seq: bigint; bodyHash: string },
    error: ApiError,
  ): Promise<void> {
    const run = await this.#deps.store.runs.get(request.modelId);
    if (!run || run.owner !== owner) return;
    const live = await this.#deps.live.get(run);
    await this.#deps.futures.refuse(futureOf(owner, request, request.seq), error);
    live.sequencer.skip(request.seq);
  }

  /** Starts work that makes or ends a model; it has no place in the model's order. */
  async start(future: NewFuture, work: () => Promise<Outcome>): Promise<void> {
    if (!(await this.#deps.futures.submit(future))) return;
    const { requestId } = future;
    this.#deps.futures.started(requestId);
    void work().then(
      (outcome) => this.#deps.futures.complete(requestId, outcome),
      (error: unknown) => this.#fail(requestId, error),
    );
  }

  async #run(
    live: LiveModel,
    job: TrainingJob,
    requestId: string,
    seq: bigint,
  ): Promise<{ done: Promise<void> }> {
    let end = (_succeeded: boolean): void => {};
    const ended = new Promise<boolean>((resolve) => {
      end = resolve;
    });
    try {
      if (!job.replacesModel) await this.#deps.live.ensure(live);
      this.#deps.futures.started(requestId);
      const { result } = await job.run(live, seq, ended);
      return { done: this.#finish(live, requestId, result).then(end) };
    } catch (error) {
      return { done: this.#fail(requestId, error).then(() => end(false)) };
    }
  }

  async #finish(live: LiveModel, requestId: string, result: Promise<JobResult>): Promise<boolean> {
    try {
      const { outcome, effect, after } = await result;
      await this.#deps.futures.complete(requestId, outcome, { runId: live.run.id, ...effect });
      await after?.();
      return true;
    } catch (error) {
      await this.#fail(requestId, error);
      return false;
    }
  }

  async #fail(requestId: string, error: unknown): Promise<void> {
    await this.#deps.futures.complete(requestId, failed(error, this.#deps.log, requestId));
  }

  async #endSession(sessionId: string): Promise<void> {
    const reason = new ApiError('session_ended', `session_id "${sessionId}" has ended`);
    for (const run of await this.#deps.store.runs.ofSession(sessionId)) {
      await this.#deps.live.drop(run, reason).catch((error: unknown) => {
        this.#deps.log.error({ err: error, model: run.id }, 'a model could not be freed');
      });
    }
  }
}

function futureOf(
  owner: string,
  request: { kind: string; modelId: string; bodyHash: string },
  seq: bigint,
): NewFuture {
  const { kind, modelId } = request;
  const requestId = `${modelId}:${seq}`;
  return { requestId, owner, kind, modelId, samplerId: null, seq, bodyHash: request.bodyHash };
}

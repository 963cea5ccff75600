import { randomUUID } from 'node:crypto';
import { rm } from 'node:fs/promises';
import type { Engine } from '@anneal/engine';
import type { RunLora, Snapshot, Store, TrainingRun } from '@anneal/store';
import type { FastifyBaseLogger } from 'fastify';
import { ApiError } from '../errors.ts';
import { type CheckpointService, pathOf } from './checkpoints.ts';
import { describeFolder } from './folder-manifest.ts';
import { toLoraSpec } from './lora-spec.ts';
import { Sequencer } from './sequencer.ts';

/** A model that takes training requests. */
export interface LiveModel {
  run: TrainingRun;
  readonly sequencer: Sequencer;
  /** Whether the engine holds it; otherwise it comes back from its snapshot when it is needed. */
  inEngine: boolean;
  /** Why it can never come back. */
  lost: ApiError | undefined;
  /** Optimizer steps so far. */
  step: number;
  /** Latest request that changed the state. */
  changedSeq: bigint;
  /** Latest one that was a step, or a load; after it there is a gradient that no step has used. */
  steppedSeq: bigint;
  /** Snapshot being written, if any; requests go on meanwhile. */
  storing: Promise<void> | undefined;
  /** Being stored and freed; requests wait for the end of it. */
  parking: Promise<void> | undefined;
  lastStoredAt: number;
}

export interface LiveModelOptions {
  gapMs: number;
  /** Shortest time between two snapshots of one model. */
  journalMs: number;
}

/**
 * The models in training, and their way through a restart.
 *
 * After an optimizer step, at most every `journalMs` and at a clean shutdown, the engine writes a snapshot in the
 * model's order. On the first request after a restart the model comes back from it, and nothing is replayed. If
 * requests that had succeeded are missing from the snapshot, the model is lost: its requests fail with an error that
 * names the surviving step, which is listed as a checkpoint to resume from.
 */
export class LiveModels {
  readonly #store: Store;
  readonly #engine: Engine;
  readonly #checkpoints: CheckpointService;
  readonly #log: FastifyBaseLogger;
  readonly #options: LiveModelOptions;
  readonly #models = new Map<string, Promise<LiveModel>>();

  constructor(
    deps: { store: Store; engine: Engine; checkpoints: CheckpointService; log: FastifyBaseLogger },
    options: LiveModelOptions,
  ) {
    this.#store = deps.store;
    this.#engine = deps.engine;
    this.#checkpoints = deps.checkpoints;
    this.#log = deps.log;
    this.#options = options;
  }

  /** The model of a run, with its place in the order of requests. */
  get(run: TrainingRun): Promise<LiveModel> {
    const known = this.#models.get(run.id);
    if (known) return known;
    const opened = this.#open(run, false);
    this.#models.set(run.id, opened);
    opened.catch(() => this.#models.delete(run.id));
    return opened;
  }

  /** Takes in a model that the engine has just made. */
  adopt(run: TrainingRun): void {
    this.#models.set(run.id, this.#open(run, true));
  }

  /**
   * Makes sure that the engine holds the model.
   *
   * @throws ApiError that says what was lost and where to resume.
   */
  async ensure(live: LiveModel): Promise<void> {
    await live.parking;
    if (live.inEngine) return;
    if (live.lost) throw live.lost;
    const { run } = live;
    if (run.unloadedAt !== null) {
      throw new ApiError(
        'invalid_request',
        `model_id "${run.id}" was unloaded: create a client from a checkpoint`,
      );
    }
    if (live.changedSeq > (run.snapshot?.seq ?? 0n)) {
      live.lost = await this.#lossOf(live);
      throw live.lost;
    }
    await this.#restore(live);
  }

  /** Notes that a request changed the state. */
  changed(live: LiveModel, seq: bigint, effect: 'gradient' | 'step'): void {
    live.changedSeq = seq;
    if (effect === 'gradient') return;
    live.steppedSeq = seq;
    live.step += 1;
  }

  /** Notes that the engine holds another state, which is stored already; returns the content that is not needed now. */
  replaced(live: LiveModel, by: { lora: RunLora; snapshot: Snapshot }): string | undefined {
    const previous = live.run.snapshot;
    live.run = { ...live.run, ...by };
    live.step = by.snapshot.step;
    live.changedSeq = by.snapshot.seq;
    live.steppedSeq = by.snapshot.seq;
    live.lost = undefined;
    live.inEngine = true;
    return previous?.blob;
  }

  /**
   * Asks the engine for a snapshot if one is due. Called right after the optimizer step was handed over, so that the
   * snapshot holds exactly the requests up to it. `ended` gives the number of steps by
   * then once its result is recorded, or undefined if it failed.
   */
  async storeAfterStep(live: LiveModel, seq: bigint, ended: Promise<number | undefined>): Promise<void> {
    if (Date.now() - live.lastStoredAt < this.#options.journalMs) return;
    if (live.storing && this.#options.journalMs > 0) return;
    await live.storing;
    const folder = await this.#checkpoints.scratch();
    const started = Date.now();
    const written = this.#write(live, folder);
    written.catch(() => {});
    const stored = (async () => {
      const step = await ended;
      await written;
      if (step !== undefined) await this.#keep(live, folder, { seq, step });
      this.#log.debug({ model: live.run.id, step, ms: Date.now() - started }, 'a snapshot was stored');
    })();
    this.#track(live, stored);
  }

  /** Stores models whose latest steps are not in a snapshot and that have nothing to do right now. */
  async storeIdle(): Promise<void> {
    for (const live of await Promise.all(this.#models.values())) {
      const isDue = Date.now() - live.lastStoredAt >= this.#options.journalMs;
      if (isDue && live.inEngine && live.sequencer.isIdle) await this.#storeNow(live);
    }
  }

  /** The models that the engine holds, with their sessions. */
  async held(): Promise<{ runId: string; sessionId: string }[]> {
    const models = await Promise.all(this.#models.values());
    return models
      .filter(({ inEngine }) => inEngine)
      .map(({ run }) => ({ runId: run.id, sessionId: run.sessionId }));
  }

  /** Stores a model that nobody uses now and frees its memory. */
  async park(runId: string): Promise<void> {
    const live = await this.#models.get(runId);
    if (!live?.inEngine || !live.sequencer.isIdle || live.parking) return;
    const parking = (async () => {
      if (!(await this.#storeNow(live))) return;
      await this.#engine.unloadModel(runId);
      live.inEngine = false;
    })();
    live.parking = parking.catch((error: unknown) => {
      this.#log.error({ err: error, model: runId }, 'an unused model could not be freed');
    });
    await live.parking;
    live.parking = undefined;
  }

  /** Ends a model: nothing runs on it any more, and its snapshot goes. */
  async drop(run: TrainingRun, reason: ApiError): Promise<void> {
    const live = await this.#models.get(run.id);
    this.#models.delete(run.id);
    await this.#store.runs.setUnloaded(run.id, Date.now());
    if (live) {
      live.sequencer.abandon(reason);
      await live.sequencer.settled();
      await live.storing;
      await live.parking;
      if (live.inEngine) await this.#engine.unloadModel(run.id);
    }
    const snapshot = (live?.run ?? run).snapshot;
    await this.#store.runs.setSnapshot(run.id, null);
    if (snapshot) await this.#store.releaseBlob(snapshot.blob);
  }

  /** Gives up the stored copy of a model that has not been used for long; it cannot come back then. */
  async forgetSnapshot(run: TrainingRun): Promise<void> {
    const live = await this.#models.get(run.id);
    if (live?.inEngine || !run.snapshot) return;
    this.#models.delete(run.id);
    await this.#store.runs.setUnloaded(run.id, Date.now());
    await this.#store.runs.setSnapshot(run.id, null);
    await this.#store.releaseBlob(run.snapshot.blob);
  }

  /** Waits for what runs and stores every model. */
  async close(deadlineMs: number): Promise<void> {
    const models = await Promise.all(this.#models.values());
    const settled = Promise.all(models.map((live) => live.sequencer.settled()));
    await Promise.race([settled, new Promise((resolve) => setTimeout(resolve, deadlineMs).unref())]);
    const stopped = new ApiError('shutting_down', 'The server was stopped before this request could run');
    for (const live of models) live.sequencer.abandon(stopped);
    await Promise.all(models.filter((live) => live.inEngine).map((live) => this.#storeNow(live)));
  }

  async #open(run: TrainingRun, inEngine: boolean): Promise<LiveModel> {
    const numbers = await this.#store.futures.sequence(run.id);
    return {
      run,
      sequencer: new Sequencer(run.id, { lastSeq: run.lastSeq, numbers }, this.#options.gapMs),
      inEngine,
      lost: undefined,
      step: run.snapshot?.step ?? 0,
      changedSeq: run.changedSeq,
      steppedSeq: run.snapshot?.seq ?? 0n,
      storing: undefined,
      parking: undefined,
      lastStoredAt: Date.now(),
    };
  }

  async #restore(live: LiveModel): Promise<void> {
    const { run } = live;
    const { snapshot, lora } = run;
    if (snapshot) {
      const dir = await this.#store.blobs.local(snapshot.blob);
      const { withOptimizer } = snapshot;
      const loaded = await this.#engine.loadCheckpoint({
        modelId: run.id,
        dir,
        baseModel: run.baseModel,
        withOptimizer,
      });
      live.step = loaded.step;
    } else {
      await this.#engine.createModel({ modelId: run.id, baseModel: run.baseModel, lora: toLoraSpec(lora) });
    }
    live.inEngine = true;
    this.#log.info({ model: run.id, step: live.step }, 'a model came back from its snapshot');
  }

  /** Lists the surviving snapshot as a checkpoint and says so. */
  async #lossOf(live: LiveModel): Promise<ApiError> {
    const { run } = live;
    const gone = `The server restarted and lost what the requests up to ${live.changedSeq} of ${run.id} did`;
    const { snapshot } = run;
    if (!snapshot) {
      return new ApiError('internal', `${gone}; no step of it was stored. Resume from your last checkpoint.`);
    }
    const name = `recovered-step-${snapshot.step}`;
    const folder = await this.#store.blobs.local(snapshot.blob);
    const files = await describeFolder(folder);
    const checkpoint = {
      runId: run.id,
      kind: 'weights' as const,
      name,
      owner: run.owner,
      blob: snapshot.blob,
      files,
      sizeBytes: files.reduce((total, file) => total + file.size, 0),
      public: false,
      userMetadata: null,
      baseModel: run.baseModel,
      loraRank: run.lora.rank,
      trainAttn: run.lora.trainAttn,
      trainMlp: run.lora.trainMlp,
      trainUnembed: run.lora.trainUnembed,
      createdAt: Date.now(),
      expiresAt: null,
    };
    await this.#store.checkpoints.put(checkpoint, true);
    const kept = `Optimizer step ${snapshot.step} (request ${snapshot.seq}) survived as ${pathOf(checkpoint)}`;
    return new ApiError('internal', `${gone}. ${kept}: resume from it with its optimizer.`);
  }

  /** False when the latest step is not stored: the write failed, or a request came in between. */
  async #storeNow(live: LiveModel): Promise<boolean> {
    await live.storing;
    const folder = await this.#checkpoints.scratch();
    if (live.steppedSeq <= (live.run.snapshot?.seq ?? 0n) || !live.sequencer.isIdle) {
      await rm(folder, { recursive: true });
      return live.sequencer.isIdle;
    }
    const at = { seq: live.steppedSeq, step: live.step };
    const stored = (async () => {
      await this.#write(live, folder);
      await this.#keep(live, folder, at);
    })();
    this.#track(live, stored);
    return await stored.then(
      () => true,
      () => false,
    );
  }

  #write(live: LiveModel, folder: string): Promise<void> {
    return this.#engine.saveCheckpoint({ modelId: live.run.id, dir: folder, kind: 'training' });
  }

  async #keep(live: LiveModel, folder: string, at: { seq: bigint; step: number }): Promise<void> {
    const blob = `snapshots/${randomUUID()}`;
    await this.#store.blobs.put(blob, folder);
    const previous = live.run.snapshot;
    live.run = { ...live.run, snapshot: { ...at, blob, withOptimizer: true } };
    await this.#store.runs.setSnapshot(live.run.id, live.run.snapshot);
    if (previous) await this.#store.releaseBlob(previous.blob);
  }

  #track(live: LiveModel, work: Promise<void>): void {
    const storing = work
      .catch((error: unknown) => {
        this.#log.error({ err: error, model: live.run.id }, 'a snapshot could not be stored');
      })
      .finally(() => {
        live.storing = undefined;
        live.lastStoredAt = Date.now();
      });
    live.storing = storing;
  }
}

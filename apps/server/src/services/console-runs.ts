import type { Session, Store, TrainingRun } from '@anneal/store';
import type { ConsoleCalls, ConsoleRun, ConsoleRuns, ConsoleSession } from '@anneal/types/console';
import { callOf, metricsOf } from '../wire/console.ts';
import { texts, toCheckpoint } from '../wire/listings.ts';
import type { CheckpointService } from './checkpoints.ts';
import type { FutureService } from './futures.ts';
import type { RunService } from './runs.ts';

const TRAINING_MS = 60_000;
const SESSIONS = 100;
const PENDING = 1000;

export interface ConsoleRunDeps {
  store: Store;
  runs: RunService;
  checkpoints: CheckpointService;
  futures: FutureService;
}

/** Runs and sessions as the console shows them: only the owner's. */
export class ConsoleRunService {
  readonly #store: Store;
  readonly #runs: RunService;
  readonly #checkpoints: CheckpointService;
  readonly #futures: FutureService;
  readonly #silenceMs: number;

  constructor({ store, runs, checkpoints, futures }: ConsoleRunDeps, silenceMs: number) {
    this.#store = store;
    this.#runs = runs;
    this.#checkpoints = checkpoints;
    this.#futures = futures;
    this.#silenceMs = silenceMs;
  }

  /** Newest first. */
  async list(owner: string, limit: number, offset: number): Promise<ConsoleRuns> {
    const { rows, total } = await this.#runs.list(owner, { limit, offset, access_scope: 'owned' });
    return { runs: await this.#describe(rows), total };
  }

  /** @throws ApiError `not_found` unless this owner has it. */
  async detail(id: string, owner: string) {
    const run = await this.#runs.get(id, owner, 'owned');
    const [described] = await this.#describe([run]);
    return {
      run: described!,
      settings: (await this.#store.metrics.settings(id)) ?? {},
      checkpoints: (await this.#checkpoints.ofRun(run, owner)).map(toCheckpoint),
    };
  }

  /** @throws ApiError `not_found` unless this owner has the run. */
  async metrics(id: string, owner: string, after: number | undefined) {
    await this.#runs.get(id, owner, 'owned');
    return metricsOf(id, await this.#store.metrics.ofRun(id, after));
  }

  /** What the run was asked, as far as it is remembered. @throws ApiError `not_found` unless this owner has the run. */
  async calls(
    id: string,
    owner: string,
    query: { after: number; limit: number; last: boolean },
  ): Promise<ConsoleCalls> {
    const run = await this.#runs.get(id, owner, 'owned');
    const session = await this.#store.sessions.get(run.sessionId);
    // Pending ones first: what ends in between is then among both, but in neither missing.
    const pending = await this.#store.futures.pendingOfModel(id, PENDING);
    const ended = await this.#store.futures.endedOfModel(id, query);
    const known = new Set(ended.map(({ requestId }) => requestId));
    return {
      calls: ended.map(callOf),
      pending: pending
        .filter(({ requestId }) => !known.has(requestId))
        .map((row) => callOf({ ...row, startedAt: this.#futures.startedAt(row.requestId) ?? null })),
      cursor: ended.at(-1)?.completion ?? query.after,
      more: ended.length === query.limit && !query.last,
      run_ended: hasEnded(run, session),
    };
  }

  /** Newest first, those that have not finished before those that have. */
  async sessions(owner: string): Promise<ConsoleSession[]> {
    const sessions = await this.#store.sessions.list(owner, SESSIONS, 0);
    const now = Date.now();
    const described = await Promise.all(
      sessions.map(async (session): Promise<ConsoleSession> => {
        const isSilent = session.lastHeartbeatAt < now - this.#silenceMs;
        return {
          session_id: session.id,
          display_name: session.displayName,
          sdk_version: session.sdkVersion,
          tags: session.tags,
          state: session.finishedAt !== null ? 'finished' : isSilent ? 'silent' : 'active',
          created_at: session.createdAt,
          last_heartbeat_at: session.lastHeartbeatAt,
          runs: (await this.#store.runs.ofSession(session.id)).length,
        };
      }),
    );
    const rank = { active: 0, silent: 1, finished: 2 };
    return described.sort((a, b) => rank[a.state] - rank[b.state]);
  }

  async #describe(runs: TrainingRun[]): Promise<ConsoleRun[]> {
    const latest = new Map(
      (await this.#store.metrics.latest(runs.map(({ id }) => id))).map((step) => [step.runId, step]),
    );
    const ids = [...new Set(runs.map(({ sessionId }) => sessionId))];
    const sessions = new Map(
      (await Promise.all(ids.map((id) => this.#store.sessions.get(id)))).map((session) => [
        session?.id,
        session,
      ]),
    );
    const now = Date.now();
    return runs.map((run) => {
      const session = sessions.get(run.sessionId);
      const step = latest.get(run.id);
      return {
        run_id: run.id,
        session_id: run.sessionId,
        session_name: session?.displayName ?? null,
        base_model: run.baseModel,
        state: hasEnded(run, session) ? 'ended' : run.lastRequestAt > now - TRAINING_MS ? 'training' : 'idle',
        corrupted: run.corrupted,
        lora: {
          rank: run.lora.rank,
          alpha: run.lora.alpha,
          seed: run.lora.seed?.toString() ?? null,
          train_attn: run.lora.trainAttn,
          train_mlp: run.lora.trainMlp,
          train_unembed: run.lora.trainUnembed,
        },
        created_at: run.createdAt,
        last_request_at: run.lastRequestAt,
        step: step?.step ?? null,
        latest: step?.metrics ?? {},
        user_metadata: texts(run.userMetadata),
      };
    });
  }
}

/** Whether a run takes no more requests. */
function hasEnded(run: TrainingRun, session: Session | undefined): boolean {
  return run.unloadedAt !== null || (session?.finishedAt ?? null) !== null;
}

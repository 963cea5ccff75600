import type { Store, TrainingRun } from '@anneal/store';
import type { ConsoleRun, ConsoleRuns, ConsoleSession } from '@anneal/types/console';
import { metricsOf } from '../wire/console.ts';
import { texts, toCheckpoint } from '../wire/listings.ts';
import type { CheckpointService } from './checkpoints.ts';
import type { RunService } from './runs.ts';

const TRAINING_MS = 60_000;
const SESSIONS = 100;

/** Runs and sessions as the console shows them: only the owner's. */
export class ConsoleRunService {
  readonly #store: Store;
  readonly #runs: RunService;
  readonly #checkpoints: CheckpointService;
  readonly #silenceMs: number;

  constructor(store: Store, runs: RunService, checkpoints: CheckpointService, silenceMs: number) {
    this.#store = store;
    this.#runs = runs;
    this.#checkpoints = checkpoints;
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
      const hasEnded = run.unloadedAt !== null || (session?.finishedAt ?? null) !== null;
      const step = latest.get(run.id);
      return {
        run_id: run.id,
        session_id: run.sessionId,
        session_name: session?.displayName ?? null,
        base_model: run.baseModel,
        state: hasEnded ? 'ended' : run.lastRequestAt > now - TRAINING_MS ? 'training' : 'idle',
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

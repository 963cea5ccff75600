import { sql } from 'kysely';
import type { Database } from './database.ts';

/** What one owner's checkpoints of one project take. */
export interface ProjectStorage {
  projectId: string | null;
  count: number;
  bytes: number;
}

/** A request of a session, from its arrival to its end. */
export interface TracedRequest {
  requestId: string;
  kind: string;
  /** The model or sampler that it was for. */
  target: string;
  state: 'pending' | 'done' | 'failed' | 'expired';
  createdAt: number;
  finishedAt: number | null;
}

/** What was used: room by project, time by session. */
export class UsageStore {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  /** The most room first. */
  async storage(owner: string): Promise<ProjectStorage[]> {
    const rows = await this.#database.db
      .selectFrom('checkpoints')
      .leftJoin('training_runs', 'training_runs.id', 'checkpoints.run_id')
      .select((select) => [
        'training_runs.project_id as project_id',
        select.fn.countAll<number>().as('count'),
        select.fn.sum<number>('checkpoints.size_bytes').as('bytes'),
      ])
      .where('checkpoints.owner', '=', owner)
      .groupBy('training_runs.project_id')
      .orderBy('bytes', 'desc')
      .execute();
    return rows.map((row) => ({
      projectId: row.project_id,
      count: Number(row.count),
      bytes: Number(row.bytes),
    }));
  }

  /** Requests that are still remembered, oldest first, at most `limit` of them. */
  async requests(sessionId: string, limit: number): Promise<TracedRequest[]> {
    const rows = await this.#database.db
      .selectFrom('futures')
      .select([
        'request_id',
        'kind',
        'state',
        'created_at',
        'finished_at',
        sql<string>`coalesce(model_id, sampler_id)`.as('target'),
      ])
      .where((where) =>
        where.or([
          where('model_id', 'in', (db) =>
            db.selectFrom('training_runs').select('id').where('session_id', '=', sessionId),
          ),
          where('sampler_id', 'in', (db) =>
            db.selectFrom('samplers').select('id').where('session_id', '=', sessionId),
          ),
        ]),
      )
      .orderBy('created_at')
      .limit(limit)
      .execute();
    return rows.map((row) => ({
      requestId: row.request_id,
      kind: row.kind,
      target: row.target,
      state: row.state,
      createdAt: Number(row.created_at),
      finishedAt: row.finished_at === null ? null : Number(row.finished_at),
    }));
  }
}

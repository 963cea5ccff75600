import { sql } from 'kysely';
import type { Database } from './database.ts';
import type { SessionsTable } from './schema.ts';

export type FinishReason = 'success' | 'errored' | 'interrupted';

export interface Session {
  id: string;
  owner: string;
  projectId: string | null;
  displayName: string | null;
  tags: string[];
  userMetadata: Record<string, unknown>;
  sdkVersion: string;
  createdAt: number;
  lastHeartbeatAt: number;
  finishedAt: number | null;
  finishReason: string | null;
  finishDetail: string | null;
}

/** What a search matches; an absent field matches everything. */
export interface SessionFilter {
  owner: string;
  id?: string;
  projectIds?: string[];
  displayName?: string;
  userMetadata?: Record<string, string>;
  /** Only sessions created before this time, or at it with a smaller id: the place where a page begins. */
  before?: { createdAt: number; id: string };
}

export class SessionStore {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  async create(session: Session): Promise<void> {
    await this.#database.write(async (db) => {
      await db.insertInto('sessions').values(toRow(session)).execute();
    });
  }

  async get(id: string): Promise<Session | undefined> {
    const row = await this.#database.db
      .selectFrom('sessions')
      .selectAll()
      .where('id', '=', id)
      .executeTakeFirst();
    return row && fromRow(row);
  }

  /** Newest first. */
  async list(owner: string, limit: number, offset: number): Promise<Session[]> {
    const rows = await this.#database.db
      .selectFrom('sessions')
      .selectAll()
      .where('owner', '=', owner)
      .orderBy('created_at', 'desc')
      .orderBy('id', 'desc')
      .limit(limit)
      .offset(offset)
      .execute();
    return rows.map(fromRow);
  }

  /** Newest first, at most `limit`. */
  async search(filter: SessionFilter, limit: number): Promise<Session[]> {
    let query = this.#database.db.selectFrom('sessions').selectAll().where('owner', '=', filter.owner);
    if (filter.id !== undefined) query = query.where('id', '=', filter.id);
    if (filter.projectIds) query = query.where('project_id', 'in', filter.projectIds);
    if (filter.displayName !== undefined) query = query.where('display_name', '=', filter.displayName);
    const { before } = filter;
    if (before) {
      query = query.where((where) =>
        where.or([
          where('created_at', '<', before.createdAt),
          where.and([where('created_at', '=', before.createdAt), where('id', '<', before.id)]),
        ]),
      );
    }
    const wanted = Object.entries(filter.userMetadata ?? {});
    const found: Session[] = [];
    const ordered = query.orderBy('created_at', 'desc').orderBy('id', 'desc');
    const pageSize = wanted.length > 0 ? undefined : limit;
    const rows = await (pageSize === undefined ? ordered : ordered.limit(pageSize)).execute();
    for (const row of rows) {
      const session = fromRow(row);
      if (wanted.every(([key, value]) => session.userMetadata[key] === value)) found.push(session);
      if (found.length === limit) break;
    }
    return found;
  }

  async heartbeat(id: string, now: number): Promise<void> {
    await this.#database.write(async (db) => {
      await db.updateTable('sessions').set({ last_heartbeat_at: now }).where('id', '=', id).execute();
    });
  }

  /** The first reason wins; repeating changes nothing. */
  async finish(id: string, reason: FinishReason, detail: string | null, now: number): Promise<void> {
    await this.#database.write(async (db) => {
      await db
        .updateTable('sessions')
        .set({ finished_at: now, finish_reason: reason, finish_detail: detail })
        .where('id', '=', id)
        .where('finished_at', 'is', null)
        .execute();
    });
  }

  /** Moves a session and its runs to another project. */
  async setProject(id: string, projectId: string): Promise<void> {
    await this.#database.write(async (db) => {
      await db.updateTable('sessions').set({ project_id: projectId }).where('id', '=', id).execute();
      await db
        .updateTable('training_runs')
        .set({ project_id: projectId })
        .where('session_id', '=', id)
        .execute();
    });
  }

  async countCheckpoints(id: string): Promise<number> {
    const row = await this.#database.db
      .selectFrom('checkpoints')
      .innerJoin('training_runs', 'training_runs.id', 'checkpoints.run_id')
      .select(sql<number>`count(*)`.as('count'))
      .where('training_runs.session_id', '=', id)
      .executeTakeFirstOrThrow();
    return Number(row.count);
  }
}

function toRow(session: Session): SessionsTable {
  return {
    id: session.id,
    owner: session.owner,
    project_id: session.projectId,
    display_name: session.displayName,
    tags: JSON.stringify(session.tags),
    user_metadata: JSON.stringify(session.userMetadata),
    sdk_version: session.sdkVersion,
    created_at: session.createdAt,
    last_heartbeat_at: session.lastHeartbeatAt,
    finished_at: session.finishedAt,
    finish_reason: session.finishReason,
    finish_detail: session.finishDetail,
  };
}

function fromRow(row: SessionsTable): Session {
  return {
    id: row.id,
    owner: row.owner,
    projectId: row.project_id,
    displayName: row.display_name,
    tags: JSON.parse(row.tags),
    userMetadata: JSON.parse(row.user_metadata),
    sdkVersion: row.sdk_version,
    createdAt: row.created_at,
    lastHeartbeatAt: row.last_heartbeat_at,
    finishedAt: row.finished_at,
    finishReason: row.finish_reason,
    finishDetail: row.finish_detail,
  };
}

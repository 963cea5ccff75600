import { sql } from 'kysely';
import type { Database } from './database.ts';
import { toJsonColumn } from './json-column.ts';
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

/** The place in a list, newest first, after which a page begins. */
export interface SessionPosition {
  createdAt: number;
  id: string;
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

  /** Newest first, those after `position`. */
  async after(owner: string, position: SessionPosition | undefined, limit: number): Promise<Session[]> {
    let query = this.#database.db.selectFrom('sessions').selectAll().where('owner', '=', owner);
    if (position) {
      query = query.where((where) =>
        where.or([
          where('created_at', '<', position.createdAt),
          where.and([where('created_at', '=', position.createdAt), where('id', '<', position.id)]),
        ]),
      );
    }
    const rows = await query.orderBy('created_at', 'desc').orderBy('id', 'desc').limit(limit).execute();
    return rows.map(fromRow);
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

  /** Number and bytes of the checkpoints that a session's runs saved. */
  async storedBy(id: string): Promise<{ count: number; bytes: number }> {
    const row = await this.#database.db
      .selectFrom('checkpoints')
      .innerJoin('training_runs', 'training_runs.id', 'checkpoints.run_id')
      .select((select) => [
        select.fn.countAll<number>().as('count'),
        select.fn.coalesce(select.fn.sum<number>('checkpoints.size_bytes'), sql<number>`0`).as('bytes'),
      ])
      .where('training_runs.session_id', '=', id)
      .executeTakeFirstOrThrow();
    return { count: Number(row.count), bytes: Number(row.bytes) };
  }
}

function toRow(session: Session): SessionsTable {
  return {
    id: session.id,
    owner: session.owner,
    project_id: session.projectId,
    display_name: session.displayName,
    tags: JSON.stringify(session.tags),
    user_metadata: toJsonColumn(session.userMetadata),
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

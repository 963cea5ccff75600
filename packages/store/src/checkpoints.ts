import { sql } from 'kysely';
import { chunks } from './chunks.ts';
import type { Database } from './database.ts';
import { toJsonColumn } from './json-column.ts';
import type { CheckpointsTable } from './schema.ts';
import type { Page } from './training-runs.ts';

export type CheckpointKind = CheckpointsTable['kind'];

/** One file of a stored folder, as it was when it was written. */
export interface StoredFile {
  name: string;
  size: number;
  sha256: string;
}

export interface StoredCheckpoint {
  runId: string;
  kind: CheckpointKind;
  name: string;
  owner: string;
  blob: string;
  files: StoredFile[];
  sizeBytes: number;
  public: boolean;
  userMetadata: Record<string, unknown> | null;
  baseModel: string;
  loraRank: number;
  trainAttn: boolean;
  trainMlp: boolean;
  trainUnembed: boolean;
  createdAt: number;
  expiresAt: number | null;
}

/** What names a checkpoint: `tinker://{runId}/{kind}/{name}`. */
export interface CheckpointKey {
  runId: string;
  kind: CheckpointKind;
  name: string;
}

/** `exists`: the name is taken. Otherwise the folder that the new content replaced, if any. */
export type PutOutcome = { exists: true } | { exists: false; replacedBlob: string | null };

export class CheckpointStore {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  /** Lists a checkpoint whose files are already in place. */
  async put(checkpoint: StoredCheckpoint, overwrite: boolean): Promise<PutOutcome> {
    return await this.#database.write(async (db) => {
      const old = await db
        .selectFrom('checkpoints')
        .select('blob')
        .where('run_id', '=', checkpoint.runId)
        .where('kind', '=', checkpoint.kind)
        .where('name', '=', checkpoint.name)
        .executeTakeFirst();
      if (old && !overwrite) return { exists: true };
      const row = toRow(checkpoint);
      await db
        .insertInto('checkpoints')
        .values(row)
        .onConflict((conflict) => conflict.columns(['run_id', 'kind', 'name']).doUpdateSet(row))
        .execute();
      return { exists: false, replacedBlob: old?.blob ?? null };
    });
  }

  async get(key: CheckpointKey): Promise<StoredCheckpoint | undefined> {
    const row = await this.#database.db
      .selectFrom('checkpoints')
      .selectAll()
      .where('run_id', '=', key.runId)
      .where('kind', '=', key.kind)
      .where('name', '=', key.name)
      .executeTakeFirst();
    return row && fromRow(row);
  }

  /** Oldest first. */
  async ofRun(runId: string): Promise<StoredCheckpoint[]> {
    const rows = await this.#database.db
      .selectFrom('checkpoints')
      .selectAll()
      .where('run_id', '=', runId)
      .orderBy('created_at')
      .orderBy('name')
      .execute();
    return rows.map(fromRow);
  }

  /** Newest first. */
  async ofOwner(owner: string, limit: number, offset: number): Promise<Page<StoredCheckpoint>> {
    const query = this.#database.db.selectFrom('checkpoints').where('owner', '=', owner);
    const total = await query.select(sql<number>`count(*)`.as('count')).executeTakeFirstOrThrow();
    const rows = await query
      .selectAll()
      .orderBy('created_at', 'desc')
      .orderBy('name', 'desc')
      .limit(limit)
      .offset(offset)
      .execute();
    return { rows: rows.map(fromRow), total: Number(total.count) };
  }

  /** The newest checkpoint of each kind, per run. */
  async latest(runIds: string[]): Promise<StoredCheckpoint[]> {
    const found = await Promise.all(chunks(runIds).map((ids) => this.#latestOf(ids)));
    return found.flat();
  }

  async #latestOf(runIds: string[]): Promise<StoredCheckpoint[]> {
    const rows = await this.#database.db
      .selectFrom('checkpoints as c')
      .selectAll('c')
      .where('c.run_id', 'in', runIds)
      .where((where) =>
        where.not(
          where.exists(
            where
              .selectFrom('checkpoints as later')
              .select('later.name')
              .whereRef('later.run_id', '=', 'c.run_id')
              .whereRef('later.kind', '=', 'c.kind')
              .where((or) =>
                or.or([
                  or('later.created_at', '>', or.ref('c.created_at')),
                  or.and([
                    or('later.created_at', '=', or.ref('c.created_at')),
                    or('later.name', '>', or.ref('c.name')),
                  ]),
                ]),
              ),
          ),
        ),
      )
      .execute();
    return rows.map(fromRow);
  }

  /** The removed row; undefined when there was none. */
  async delete(key: CheckpointKey): Promise<StoredCheckpoint | undefined> {
    return await this.#database.write(async (db) => {
      const row = await db
        .deleteFrom('checkpoints')
        .where('run_id', '=', key.runId)
        .where('kind', '=', key.kind)
        .where('name', '=', key.name)
        .returningAll()
        .executeTakeFirst();
      return row && fromRow(row);
    });
  }

  async setPublic(key: CheckpointKey, isPublic: boolean): Promise<boolean> {
    return await this.#update(key, { public: Number(isPublic) });
  }

  async setExpiry(key: CheckpointKey, expiresAt: number | null): Promise<boolean> {
    return await this.#update(key, { expires_at: expiresAt });
  }

  async expired(now: number): Promise<StoredCheckpoint[]> {
    const rows = await this.#database.db
      .selectFrom('checkpoints')
      .selectAll()
      .where('expires_at', '<=', now)
      .execute();
    return rows.map(fromRow);
  }

  async #update(key: CheckpointKey, columns: Partial<CheckpointsTable>): Promise<boolean> {
    return await this.#database.write(async (db) => {
      const result = await db
        .updateTable('checkpoints')
        .set(columns)
        .where('run_id', '=', key.runId)
        .where('kind', '=', key.kind)
        .where('name', '=', key.name)
        .executeTakeFirst();
      return result.numUpdatedRows > 0n;
    });
  }
}

function toRow(checkpoint: StoredCheckpoint): CheckpointsTable {
  return {
    run_id: checkpoint.runId,
    kind: checkpoint.kind,
    name: checkpoint.name,
    owner: checkpoint.owner,
    blob: checkpoint.blob,
    files: JSON.stringify(checkpoint.files),
    size_bytes: checkpoint.sizeBytes,
    public: Number(checkpoint.public),
    user_metadata: checkpoint.userMetadata && toJsonColumn(checkpoint.userMetadata),
    base_model: checkpoint.baseModel,
    lora_rank: checkpoint.loraRank,
    train_attn: Number(checkpoint.trainAttn),
    train_mlp: Number(checkpoint.trainMlp),
    train_unembed: Number(checkpoint.trainUnembed),
    created_at: checkpoint.createdAt,
    expires_at: checkpoint.expiresAt,
  };
}

function fromRow(row: CheckpointsTable): StoredCheckpoint {
  return {
    runId: row.run_id,
    kind: row.kind,
    name: row.name,
    owner: row.owner,
    blob: row.blob,
    files: JSON.parse(row.files),
    sizeBytes: row.size_bytes,
    public: row.public === 1,
    userMetadata: row.user_metadata === null ? null : JSON.parse(row.user_metadata),
    baseModel: row.base_model,
    loraRank: row.lora_rank,
    trainAttn: row.train_attn === 1,
    trainMlp: row.train_mlp === 1,
    trainUnembed: row.train_unembed === 1,
    createdAt: row.created_at,
    expiresAt: row.expires_at,
  };
}

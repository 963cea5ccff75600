import { sql } from 'kysely';
import type { Database } from './database.ts';
import { toJsonColumn } from './json-column.ts';
import type { TrainingRunsTable } from './schema.ts';

/** What a run's adapter covers. */
export interface RunLora {
  rank: number;
  alpha: number;
  seed: bigint | null;
  trainAttn: boolean;
  trainMlp: boolean;
  trainUnembed: boolean;
  /** Whether experts share a side of their adapters. */
  shareExperts?: boolean;
}

/** The periodic copy of a live model, from which it comes back after a restart. */
export interface Snapshot {
  seq: bigint;
  step: number;
  blob: string;
  /** Whether the optimizer's moments come back too; otherwise it starts fresh. */
  withOptimizer: boolean;
}

export interface TrainingRun {
  id: string;
  sessionId: string;
  owner: string;
  projectId: string | null;
  baseModel: string;
  lora: RunLora;
  userMetadata: Record<string, unknown> | null;
  createdAt: number;
  lastRequestAt: number;
  lastSeq: bigint;
  corrupted: boolean;
  unloadedAt: number | null;
  snapshot: Snapshot | null;
  /** Number of the latest finished request that changed weights, moments or gradient. */
  changedSeq: bigint;
}

export interface Page<T> {
  rows: T[];
  total: number;
}

export class TrainingRunStore {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  /** False when a run with this id exists already. */
  async create(run: TrainingRun): Promise<boolean> {
    return await this.#database.write(async (db) => {
      const result = await db
        .insertInto('training_runs')
        .values(toRow(run))
        .onConflict((conflict) => conflict.column('id').doNothing())
        .executeTakeFirst();
      return (result.numInsertedOrUpdatedRows ?? 0n) > 0n;
    });
  }

  async get(id: string): Promise<TrainingRun | undefined> {
    const row = await this.#database.db
      .selectFrom('training_runs')
      .selectAll()
      .where('id', '=', id)
      .executeTakeFirst();
    return row && fromRow(row);
  }

  async ofSession(sessionId: string): Promise<TrainingRun[]> {
    const rows = await this.#database.db
      .selectFrom('training_runs')
      .selectAll()
      .where('session_id', '=', sessionId)
      .orderBy('created_at')
      .execute();
    return rows.map(fromRow);
  }

  /** Newest first. `accessible` adds the runs of others that have a published checkpoint. */
  async list(
    owner: string,
    options: { limit: number; offset: number; accessible: boolean; projectId?: string },
  ): Promise<Page<TrainingRun>> {
    let query = this.#database.db.selectFrom('training_runs').where((where) => {
      const own = where('owner', '=', owner);
      if (!options.accessible) return own;
      const published = where.exists(
        where
          .selectFrom('checkpoints')
          .select('checkpoints.run_id')
          .whereRef('checkpoints.run_id', '=', 'training_runs.id')
          .where('checkpoints.public', '=', 1),
      );
      return where.or([own, published]);
    });
    if (options.projectId !== undefined) query = query.where('project_id', '=', options.projectId);
    const total = await query.select(sql<number>`count(*)`.as('count')).executeTakeFirstOrThrow();
    const rows = await query
      .selectAll()
      .orderBy('created_at', 'desc')
      .orderBy('id', 'desc')
      .limit(options.limit)
      .offset(options.offset)
      .execute();
    return { rows: rows.map(fromRow), total: Number(total.count) };
  }

  /** Models of this owner that still take training requests. */
  async countLive(owner: string): Promise<number> {
    const row = await this.#database.db
      .selectFrom('training_runs')
      .innerJoin('sessions', 'sessions.id', 'training_runs.session_id')
      .select(sql<number>`count(*)`.as('count'))
      .where('training_runs.owner', '=', owner)
      .where('training_runs.unloaded_at', 'is', null)
      .where('sessions.finished_at', 'is', null)
      .executeTakeFirstOrThrow();
    return Number(row.count);
  }

  async setCorrupted(id: string): Promise<void> {
    await this.#update(id, { corrupted: 1 });
  }

  async setUnloaded(id: string, now: number): Promise<void> {
    await this.#update(id, { unloaded_at: now });
  }

  /** Records a finished snapshot, or with null that there is none any more. */
  async setSnapshot(id: string, snapshot: Snapshot | null): Promise<void> {
    await this.#update(id, snapshotColumns(snapshot));
  }

  /** Snapshots of runs that nobody has used since `before`. */
  async idleSnapshots(before: number): Promise<TrainingRun[]> {
    const rows = await this.#database.db
      .selectFrom('training_runs')
      .selectAll()
      .where('snapshot_blob', 'is not', null)
      .where('last_request_at', '<', before)
      .execute();
    return rows.map(fromRow);
  }

  async #update(id: string, columns: Partial<TrainingRunsTable>): Promise<void> {
    await this.#database.write(async (db) => {
      await db.updateTable('training_runs').set(columns).where('id', '=', id).execute();
    });
  }
}

export function loraColumns(lora: RunLora) {
  return {
    lora_rank: lora.rank,
    lora_alpha: lora.alpha,
    lora_seed: lora.seed === null ? null : lora.seed.toString(),
    train_attn: Number(lora.trainAttn),
    train_mlp: Number(lora.trainMlp),
    train_unembed: Number(lora.trainUnembed),
    share_experts: Number(lora.shareExperts ?? false),
  };
}

export function snapshotColumns(snapshot: Snapshot | null) {
  return {
    snapshot_seq: snapshot ? snapshot.seq.toString() : null,
    snapshot_step: snapshot ? snapshot.step : null,
    snapshot_blob: snapshot ? snapshot.blob : null,
    snapshot_optimizer: Number(snapshot?.withOptimizer ?? false),
  };
}

function toRow(run: TrainingRun): TrainingRunsTable {
  return {
    id: run.id,
    session_id: run.sessionId,
    owner: run.owner,
    project_id: run.projectId,
    base_model: run.baseModel,
    ...loraColumns(run.lora),
    user_metadata: run.userMetadata && toJsonColumn(run.userMetadata),
    created_at: run.createdAt,
    last_request_at: run.lastRequestAt,
    last_seq: run.lastSeq.toString(),
    corrupted: Number(run.corrupted),
    unloaded_at: run.unloadedAt,
    ...snapshotColumns(run.snapshot),
    changed_seq: run.changedSeq.toString(),
  };
}

function fromRow(row: TrainingRunsTable): TrainingRun {
  return {
    id: row.id,
    sessionId: row.session_id,
    owner: row.owner,
    projectId: row.project_id,
    baseModel: row.base_model,
    lora: {
      rank: row.lora_rank,
      alpha: row.lora_alpha,
      seed: row.lora_seed === null ? null : BigInt(row.lora_seed),
      trainAttn: row.train_attn === 1,
      trainMlp: row.train_mlp === 1,
      trainUnembed: row.train_unembed === 1,
      ...(row.share_experts === 1 ? { shareExperts: true } : {}),
    },
    userMetadata: row.user_metadata === null ? null : JSON.parse(row.user_metadata),
    createdAt: row.created_at,
    lastRequestAt: row.last_request_at,
    lastSeq: BigInt(row.last_seq),
    corrupted: row.corrupted === 1,
    unloadedAt: row.unloaded_at,
    snapshot: toSnapshot(row),
    changedSeq: BigInt(row.changed_seq),
  };
}

function toSnapshot(row: TrainingRunsTable): Snapshot | null {
  const { snapshot_seq: seq, snapshot_step: step, snapshot_blob: blob } = row;
  if (seq === null || step === null || blob === null) return null;
  return { seq: BigInt(seq), step, blob, withOptimizer: row.snapshot_optimizer === 1 };
}

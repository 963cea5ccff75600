import { chunks } from './chunks.ts';
import type { Database } from './database.ts';
import type { FuturesTable, TrainingRunsTable } from './schema.ts';
import { loraColumns, type RunLora, type Snapshot, snapshotColumns } from './training-runs.ts';

export type ErrorCategory = 'user' | 'server';

/** What a request worked on and what came of it, in numbers, for those who read about it later. */
export interface CallDetail {
  /** Tokens that went through the model: of all datums, or of the prompt and its samples. */
  tokens?: number;
  /** Datums, or samples. */
  sequences?: number;
  lossFn?: string;
  metrics?: Record<string, number>;
}

/** A request whose result is fetched later. */
export interface FutureRow {
  requestId: string;
  owner: string;
  kind: string;
  modelId: string | null;
  samplerId: string | null;
  seq: bigint | null;
  bodyHash: string;
  state: 'pending' | 'done' | 'failed' | 'expired';
  resultType: 'json' | 'protobuf' | null;
  resultSize: number | null;
  error: string | null;
  category: ErrorCategory | null;
  createdAt: number;
  /** When its work was handed on; null while it waits for its turn. */
  startedAt: number | null;
  finishedAt: number | null;
  completion: number;
  detail: CallDetail | null;
}

export type NewFuture = Pick<
  FutureRow,
  'requestId' | 'owner' | 'kind' | 'modelId' | 'samplerId' | 'seq' | 'bodyHash'
>;

/** What a finished request did to its run, recorded together with its result. */
export interface RunEffect {
  runId: string;
  /** Number of the request, when it changed weights, moments or gradient. */
  changedSeq?: bigint;
  /** The stored copy that now holds the run's state. */
  snapshot?: Snapshot;
  /** What the run's adapter is from now on. */
  adapter?: { baseModel: string; lora: RunLora };
}

export type Outcome =
  | { state: 'done'; resultType: 'json' | 'protobuf'; body: Uint8Array; detail?: CallDetail }
  | { state: 'failed'; error: string; category: ErrorCategory };

export class FutureStore {
  readonly #database: Database;
  #lastCompletion = 0;

  constructor(database: Database) {
    this.#database = database;
  }

  /**
   * Records a request, and on its run or sampler that it was used. Returns the row that was there before under the
   * same request id, or undefined when this one is new.
   */
  async submit(future: NewFuture, outcome?: Outcome): Promise<FutureRow | undefined> {
    const now = Date.now();
    return await this.#database.write(async (db) => {
      const inserted = await db
        .insertInto('futures')
        .values({ ...pendingRow(future, now), ...(outcome ? this.#outcomeColumns(outcome, now) : {}) })
        .onConflict((conflict) => conflict.column('request_id').doNothing())
        .executeTakeFirst();
      if ((inserted.numInsertedOrUpdatedRows ?? 0n) === 0n) {
        const row = await db
          .selectFrom('futures')
          .selectAll()
          .where('request_id', '=', future.requestId)
          .executeTakeFirstOrThrow();
        return fromRow(row);
      }
      if (future.samplerId !== null) {
        await db
          .updateTable('samplers')
          .set({ last_used_at: now })
          .where('id', '=', future.samplerId)
          .execute();
      }
      if (future.modelId !== null) {
        await touchRun(db, future.modelId, future.seq ?? 0n, now);
      }
      return undefined;
    });
  }

  /** @param startedAt When the work was handed on; absent: it never was */
  async finish(
    requestId: string,
    outcome: Outcome,
    effect?: RunEffect,
    startedAt: number | null = null,
  ): Promise<void> {
    const now = Date.now();
    await this.#database.write(async (db) => {
      await db
        .updateTable('futures')
        .set({ ...this.#outcomeColumns(outcome, now), started_at: startedAt })
        .where('request_id', '=', requestId)
        .execute();
      if (outcome.state === 'done') {
        await db
          .insertInto('future_results')
          .values({ request_id: requestId, body: outcome.body })
          .onConflict((conflict) => conflict.column('request_id').doUpdateSet({ body: outcome.body }))
          .execute();
      }
      if (effect) await applyEffect(db, effect);
    });
  }

  async get(requestId: string): Promise<FutureRow | undefined> {
    const row = await this.#database.db
      .selectFrom('futures')
      .selectAll()
      .where('request_id', '=', requestId)
      .executeTakeFirst();
    return row && fromRow(row);
  }

  /** Ended requests of a sampler after this completion number, oldest first. */
  async completed(samplerId: string, after: number, limit: number): Promise<FutureRow[]> {
    const rows = await this.#database.db
      .selectFrom('futures')
      .selectAll()
      .where('sampler_id', '=', samplerId)
      .where('completion', '>', after)
      .orderBy('completion')
      .limit(limit)
      .execute();
    return rows.map(fromRow);
  }

  /** Ended requests of a model after this completion number, in the order of their ends; with `last`, the latest of them. */
  async endedOfModel(
    modelId: string,
    { after, limit, last }: { after: number; limit: number; last: boolean },
  ): Promise<FutureRow[]> {
    const rows = await this.#database.db
      .selectFrom('futures')
      .selectAll()
      .where('model_id', '=', modelId)
      .where('completion', '>', after)
      .orderBy('completion', last ? 'desc' : 'asc')
      .limit(limit)
      .execute();
    const found = rows.map(fromRow);
    return last ? found.reverse() : found;
  }

  /** Requests of a model that have not ended, oldest first. */
  async pendingOfModel(modelId: string, limit: number): Promise<FutureRow[]> {
    const rows = await this.#database.db
      .selectFrom('futures')
      .selectAll()
      .where('model_id', '=', modelId)
      .where('completion', '=', 0)
      .orderBy('created_at')
      .limit(limit)
      .execute();
    return rows.map(fromRow);
  }

  async result(requestId: string): Promise<Uint8Array | undefined> {
    const row = await this.#database.db
      .selectFrom('future_results')
      .select('body')
      .where('request_id', '=', requestId)
      .executeTakeFirst();
    return row?.body;
  }

  async markRead(requestIds: string[]): Promise<void> {
    for (const ids of chunks(requestIds)) {
      await this.#database.write(async (db) => {
        await db
          .updateTable('futures')
          .set({ read_at: Date.now() })
          .where('request_id', 'in', ids)
          .where('read_at', 'is', null)
          .execute();
      });
    }
  }

  /** Numbers that this model's remembered requests used. */
  async sequence(modelId: string): Promise<bigint[]> {
    const rows = await this.#database.db
      .selectFrom('futures')
      .select('seq')
      .where('model_id', '=', modelId)
      .where('seq', 'is not', null)
      .execute();
    return rows.map((row) => BigInt(row.seq ?? 0));
  }

  /** Ends what an earlier process left unfinished. Samples are gone, so that the client sends them again. */
  async failUnfinished(message: string): Promise<number> {
    const now = Date.now();
    return await this.#database.write(async (db) => {
      const samples = await db
        .updateTable('futures')
        .set({ state: 'expired', finished_at: now, completion: this.#nextCompletion() })
        .where('state', '=', 'pending')
        .where('kind', '=', 'sample')
        .executeTakeFirst();
      const others = await db
        .updateTable('futures')
        .set({
          state: 'failed',
          error: message,
          category: 'server',
          finished_at: now,
          completion: this.#nextCompletion(),
        })
        .where('state', '=', 'pending')
        .executeTakeFirst();
      return Number(samples.numUpdatedRows + others.numUpdatedRows);
    });
  }

  /**
   * Drops results that were read before `readBefore` or finished before `finishedBefore`, and forgets requests that
   * finished before `forgetBefore`.
   */
  async sweep(limits: { readBefore: number; finishedBefore: number; forgetBefore: number }): Promise<void> {
    await this.#database.write(async (db) => {
      const old = db
        .selectFrom('futures')
        .select('request_id')
        .where('state', 'in', ['done', 'failed'])
        .where((where) =>
          where.or([
            where('read_at', '<', limits.readBefore),
            where('finished_at', '<', limits.finishedBefore),
          ]),
        );
      await db.deleteFrom('future_results').where('request_id', 'in', old).execute();
      await db.updateTable('futures').set({ state: 'expired' }).where('request_id', 'in', old).execute();
      await db
        .deleteFrom('futures')
        .where('state', '=', 'expired')
        .where('finished_at', '<', limits.forgetBefore)
        .execute();
    });
  }

  #outcomeColumns(outcome: Outcome, now: number): Partial<FuturesTable> {
    const completion = this.#nextCompletion();
    return outcome.state === 'done'
      ? {
          state: 'done',
          result_type: outcome.resultType,
          result_size: outcome.body.byteLength,
          detail: outcome.detail ? JSON.stringify(outcome.detail) : null,
          finished_at: now,
          completion,
        }
      : {
          state: 'failed',
          // A message may repeat a text of the request, and PostgreSQL takes no NUL.
          error: outcome.error.replaceAll('\0', '\uFFFD'),
          category: outcome.category,
          finished_at: now,
          completion,
        };
  }

  /** Starts from the clock, so that it also grows over restarts. */
  #nextCompletion(): number {
    this.#lastCompletion = Math.max(this.#lastCompletion + 1, Date.now() * 1000);
    return this.#lastCompletion;
  }
}

type Transaction = Parameters<Parameters<Database['write']>[0]>[0];

async function touchRun(db: Transaction, runId: string, seq: bigint, now: number): Promise<void> {
  const run = await db
    .selectFrom('training_runs')
    .select('last_seq')
    .where('id', '=', runId)
    .executeTakeFirst();
  if (!run) return;
  const lastSeq = seq > BigInt(run.last_seq) ? seq.toString() : run.last_seq;
  await db
    .updateTable('training_runs')
    .set({ last_request_at: now, last_seq: lastSeq })
    .where('id', '=', runId)
    .execute();
}

async function applyEffect(db: Transaction, effect: RunEffect): Promise<void> {
  const columns: Partial<TrainingRunsTable> = {};
  if (effect.changedSeq !== undefined) columns.changed_seq = effect.changedSeq.toString();
  if (effect.snapshot) Object.assign(columns, snapshotColumns(effect.snapshot));
  if (effect.adapter) {
    Object.assign(columns, { base_model: effect.adapter.baseModel }, loraColumns(effect.adapter.lora));
  }
  if (Object.keys(columns).length === 0) return;
  await db.updateTable('training_runs').set(columns).where('id', '=', effect.runId).execute();
}

function pendingRow(future: NewFuture, now: number): FuturesTable {
  return {
    request_id: future.requestId,
    owner: future.owner,
    kind: future.kind,
    model_id: future.modelId,
    sampler_id: future.samplerId,
    seq: future.seq === null ? null : future.seq.toString(),
    body_hash: future.bodyHash,
    state: 'pending',
    result_type: null,
    result_size: null,
    error: null,
    category: null,
    created_at: now,
    started_at: null,
    finished_at: null,
    read_at: null,
    completion: 0,
    detail: null,
  };
}

function fromRow(row: FuturesTable): FutureRow {
  return {
    requestId: row.request_id,
    owner: row.owner,
    kind: row.kind,
    modelId: row.model_id,
    samplerId: row.sampler_id,
    seq: row.seq === null ? null : BigInt(row.seq),
    bodyHash: row.body_hash,
    state: row.state,
    resultType: row.result_type,
    resultSize: row.result_size,
    error: row.error,
    category: row.category,
    createdAt: row.created_at,
    startedAt: row.started_at,
    finishedAt: row.finished_at,
    completion: row.completion,
    detail: row.detail === null ? null : (JSON.parse(row.detail) as CallDetail),
  };
}

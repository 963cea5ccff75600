import type { Database } from './database.ts';
import type { FuturesTable } from './schema.ts';

export type ErrorCategory = 'user' | 'server';

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
  finishedAt: number | null;
}

export type NewFuture = Pick<
  FutureRow,
  'requestId' | 'owner' | 'kind' | 'modelId' | 'samplerId' | 'seq' | 'bodyHash'
> & {
  /** Whether a lost copy of the model would miss this request's effect. */
  changesModel: boolean;
};

export type Outcome =
  | { state: 'done'; resultType: 'json' | 'protobuf'; body: Uint8Array }
  | { state: 'failed'; error: string; category: ErrorCategory };

export class FutureStore {
  readonly #database: Database;

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
        .values({ ...pendingRow(future, now), ...(outcome ? outcomeColumns(outcome, now) : {}) })
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
        await touchRun(db, future.modelId, future, now);
      }
      return undefined;
    });
  }

  async finish(requestId: string, outcome: Outcome): Promise<void> {
    const now = Date.now();
    await this.#database.write(async (db) => {
      await db
        .updateTable('futures')
        .set(outcomeColumns(outcome, now))
        .where('request_id', '=', requestId)
        .execute();
      if (outcome.state === 'done') {
        await db
          .insertInto('future_results')
          .values({ request_id: requestId, body: outcome.body })
          .onConflict((conflict) => conflict.column('request_id').doUpdateSet({ body: outcome.body }))
          .execute();
      }
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

  async result(requestId: string): Promise<Uint8Array | undefined> {
    const row = await this.#database.db
      .selectFrom('future_results')
      .select('body')
      .where('request_id', '=', requestId)
      .executeTakeFirst();
    return row?.body;
  }

  async markRead(requestIds: string[]): Promise<void> {
    if (requestIds.length === 0) return;
    await this.#database.write(async (db) => {
      await db
        .updateTable('futures')
        .set({ read_at: Date.now() })
        .where('request_id', 'in', requestIds)
        .where('read_at', 'is', null)
        .execute();
    });
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
        .set({ state: 'expired', finished_at: now })
        .where('state', '=', 'pending')
        .where('kind', '=', 'sample')
        .executeTakeFirst();
      const others = await db
        .updateTable('futures')
        .set({ state: 'failed', error: message, category: 'server', finished_at: now })
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
      await db.deleteFrom('futures').where('finished_at', '<', limits.forgetBefore).execute();
    });
  }
}

type Transaction = Parameters<Parameters<Database['write']>[0]>[0];

async function touchRun(db: Transaction, modelId: string, future: NewFuture, now: number): Promise<void> {
  const run = await db
    .selectFrom('training_runs')
    .select(['last_seq', 'changed_seq'])
    .where('id', '=', modelId)
    .executeTakeFirst();
  if (!run) return;
  const seq = future.seq ?? 0n;
  const later = (previous: string): string => (seq > BigInt(previous) ? seq.toString() : previous);
  await db
    .updateTable('training_runs')
    .set({
      last_request_at: now,
      last_seq: later(run.last_seq),
      changed_seq: future.changesModel ? later(run.changed_seq) : run.changed_seq,
    })
    .where('id', '=', modelId)
    .execute();
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
    finished_at: null,
    read_at: null,
  };
}

function outcomeColumns(outcome: Outcome, now: number): Partial<FuturesTable> {
  return outcome.state === 'done'
    ? {
        state: 'done',
        result_type: outcome.resultType,
        result_size: outcome.body.byteLength,
        finished_at: now,
      }
    : { state: 'failed', error: outcome.error, category: outcome.category, finished_at: now };
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
    finishedAt: row.finished_at,
  };
}

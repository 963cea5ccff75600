import { chunks } from './chunks.ts';
import type { Database } from './database.ts';
import type { SamplersTable } from './schema.ts';

/** A frozen set of weights to sample from. */
export interface Sampler {
  id: string;
  sessionId: string;
  owner: string;
  baseModel: string;
  modelPath: string | null;
  /** Folder with the adapter; null for a plain base model. */
  blob: string | null;
  clones: number;
  createdAt: number;
  lastUsedAt: number;
  /** When its weights were given up; it cannot be used any more. */
  expiredAt: number | null;
}

export class SamplerStore {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  /** False when a sampler with this id exists already. */
  async create(sampler: Sampler): Promise<boolean> {
    return await this.#database.write(async (db) => {
      const result = await db
        .insertInto('samplers')
        .values(toRow(sampler))
        .onConflict((conflict) => conflict.column('id').doNothing())
        .executeTakeFirst();
      return (result.numInsertedOrUpdatedRows ?? 0n) > 0n;
    });
  }

  async get(id: string): Promise<Sampler | undefined> {
    const row = await this.#database.db
      .selectFrom('samplers')
      .selectAll()
      .where('id', '=', id)
      .executeTakeFirst();
    return row && fromRow(row);
  }

  async ofSession(sessionId: string): Promise<Sampler[]> {
    const rows = await this.#database.db
      .selectFrom('samplers')
      .selectAll()
      .where('session_id', '=', sessionId)
      .orderBy('created_at')
      .execute();
    return rows.map(fromRow);
  }

  /** Counts one more client of this sampler and returns its number, from 1. */
  async addClone(id: string): Promise<number> {
    return await this.#database.write(async (db) => {
      const row = await db
        .updateTable('samplers')
        .set((set) => ({ clones: set('clones', '+', 1) }))
        .where('id', '=', id)
        .returning('clones')
        .executeTakeFirstOrThrow();
      return row.clones;
    });
  }

  /** Samplers that still hold weights and were last used before this time. */
  async idle(before: number): Promise<Sampler[]> {
    const rows = await this.#database.db
      .selectFrom('samplers')
      .selectAll()
      .where('blob', 'is not', null)
      .where('last_used_at', '<', before)
      .execute();
    return rows.map(fromRow);
  }

  /** Gives up the weights of these samplers; their rows stay for the session's list. */
  async expire(ids: string[], now: number): Promise<void> {
    for (const some of chunks(ids)) {
      await this.#database.write(async (db) => {
        await db
          .updateTable('samplers')
          .set({ blob: null, expired_at: now })
          .where('id', 'in', some)
          .execute();
      });
    }
  }
}

function toRow(sampler: Sampler): SamplersTable {
  return {
    id: sampler.id,
    session_id: sampler.sessionId,
    owner: sampler.owner,
    base_model: sampler.baseModel,
    model_path: sampler.modelPath,
    blob: sampler.blob,
    clones: sampler.clones,
    created_at: sampler.createdAt,
    last_used_at: sampler.lastUsedAt,
    expired_at: sampler.expiredAt,
  };
}

function fromRow(row: SamplersTable): Sampler {
  return {
    id: row.id,
    sessionId: row.session_id,
    owner: row.owner,
    baseModel: row.base_model,
    modelPath: row.model_path,
    blob: row.blob,
    clones: row.clones,
    createdAt: row.created_at,
    lastUsedAt: row.last_used_at,
    expiredAt: row.expired_at,
  };
}

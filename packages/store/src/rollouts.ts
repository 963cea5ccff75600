import { sql } from 'kysely';
import { chunks } from './chunks.ts';
import type { Database } from './database.ts';
import type { RolloutsTable } from './schema.ts';

/** What a list of rollouts shows of each. */
export interface RolloutSummary {
  promptTokens: number;
  /** One entry per text that was drawn. */
  texts: {
    tokens: number;
    meanLogprob: number | null;
    stopReason: 'stop' | 'length';
    /** What a training pass weighted its tokens with, on average; absent until one used it. */
    advantage?: number;
  }[];
  /** The request's parameters that matter to a reader. */
  params: { temperature: number; topP: number; topK: number; maxTokens: number | null };
}

/** Token ids of a prompt and of the texts drawn from it, with log-probabilities. Long ones are cut at the end. */
export interface RolloutTokens {
  prompt: number[];
  texts: { tokens: number[]; logprobs: number[] }[];
}

/** One answered sampling request, as it was recorded. */
export interface Rollout {
  id: string;
  sessionId: string;
  owner: string;
  samplerId: string;
  baseModel: string;
  modelPath: string | null;
  at: number;
  summary: RolloutSummary;
  tokens: RolloutTokens;
}

/** Sampling requests that are kept for reading: the newest ones of each session. */
export class RolloutStore {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  /** Adds rollouts; each session keeps its newest `keep`. */
  async add(rollouts: readonly Rollout[], keep: number): Promise<void> {
    if (rollouts.length === 0) return;
    await this.#database.write(async (db) => {
      for (const part of chunks(rollouts.map(toRow))) {
        await db
          .insertInto('rollouts')
          .values(part)
          .onConflict((conflict) => conflict.column('id').doNothing())
          .execute();
      }
      for (const sessionId of new Set(rollouts.map((rollout) => rollout.sessionId))) {
        await sql`
          delete from rollouts where session_id = ${sessionId} and id in (
            select id from (
              select id, row_number() over (order by at desc, id desc) as place
              from rollouts where session_id = ${sessionId}
            ) as placed
            where place > ${keep}
          )`.execute(db);
      }
    });
  }

  /** Newest first. */
  async ofSession(sessionId: string, owner: string, limit: number, offset = 0): Promise<Rollout[]> {
    const rows = await this.#database.db
      .selectFrom('rollouts')
      .selectAll()
      .where('session_id', '=', sessionId)
      .where('owner', '=', owner)
      .orderBy('at', 'desc')
      .orderBy('id', 'desc')
      .limit(limit)
      .offset(offset)
      .execute();
    return rows.map(fromRow);
  }

  async get(id: string): Promise<Rollout | undefined> {
    const row = await this.#database.db
      .selectFrom('rollouts')
      .selectAll()
      .where('id', '=', id)
      .executeTakeFirst();
    return row && fromRow(row);
  }

  /** An owner's sessions that have rollouts, the most recent first. */
  async sessions(
    owner: string,
    limit: number,
  ): Promise<{ sessionId: string; count: number; latestAt: number }[]> {
    const rows = await this.#database.db
      .selectFrom('rollouts')
      .select(['session_id', sql<number>`count(*)`.as('count'), sql<number>`max(at)`.as('latest_at')])
      .where('owner', '=', owner)
      .groupBy('session_id')
      .orderBy('latest_at', 'desc')
      .limit(limit)
      .execute();
    return rows.map((row) => ({
      sessionId: row.session_id,
      count: Number(row.count),
      latestAt: Number(row.latest_at),
    }));
  }

  /** Notes what training made of texts; those that are no longer kept are passed over. */
  async setAdvantages(found: readonly { id: string; text: number; advantage: number }[]): Promise<void> {
    if (found.length === 0) return;
    await this.#database.write(async (db) => {
      for (const { id, text, advantage } of found) {
        const row = await db.selectFrom('rollouts').select('summary').where('id', '=', id).executeTakeFirst();
        if (!row) continue;
        const summary: RolloutSummary = JSON.parse(row.summary);
        const drawn = summary.texts[text];
        if (drawn) drawn.advantage = advantage;
        await db
          .updateTable('rollouts')
          .set({ summary: JSON.stringify(summary) })
          .where('id', '=', id)
          .execute();
      }
    });
  }

  async deleteSession(sessionId: string): Promise<void> {
    await this.#database.write(async (db) => {
      await db.deleteFrom('rollouts').where('session_id', '=', sessionId).execute();
    });
  }

  /** Removes what was recorded before this time. */
  async sweep(before: number): Promise<void> {
    await this.#database.write(async (db) => {
      await db.deleteFrom('rollouts').where('at', '<', before).execute();
    });
  }
}

function toRow(rollout: Rollout): RolloutsTable {
  return {
    id: rollout.id,
    session_id: rollout.sessionId,
    owner: rollout.owner,
    sampler_id: rollout.samplerId,
    base_model: rollout.baseModel,
    model_path: rollout.modelPath,
    at: rollout.at,
    summary: JSON.stringify(rollout.summary),
    tokens: JSON.stringify(rollout.tokens),
  };
}

function fromRow(row: RolloutsTable): Rollout {
  return {
    id: row.id,
    sessionId: row.session_id,
    owner: row.owner,
    samplerId: row.sampler_id,
    baseModel: row.base_model,
    modelPath: row.model_path,
    at: row.at,
    summary: JSON.parse(row.summary),
    tokens: JSON.parse(row.tokens),
  };
}

import { sql } from 'kysely';
import type { Database } from './database.ts';

/** What one owner used on one day. */
export interface DayUsage {
  owner: string;
  /** `2026-01-31`, by UTC. */
  day: string;
  trainedTokens: number;
  /** Optimizer steps. */
  steps: number;
  promptTokens: number;
  sampledTokens: number;
}

/** Counts of tokens and steps, by owner and day. */
export class DailyUsageStore {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  /** Adds to what is recorded for those days. */
  async add(usages: readonly DayUsage[]): Promise<void> {
    if (usages.length === 0) return;
    await this.#database.write(async (db) => {
      for (const usage of usages) {
        await db
          .insertInto('usage_days')
          .values({
            owner: usage.owner,
            day: usage.day,
            trained_tokens: usage.trainedTokens,
            steps: usage.steps,
            prompt_tokens: usage.promptTokens,
            sampled_tokens: usage.sampledTokens,
          })
          .onConflict((conflict) =>
            conflict.columns(['owner', 'day']).doUpdateSet({
              trained_tokens: sql`usage_days.trained_tokens + excluded.trained_tokens`,
              steps: sql`usage_days.steps + excluded.steps`,
              prompt_tokens: sql`usage_days.prompt_tokens + excluded.prompt_tokens`,
              sampled_tokens: sql`usage_days.sampled_tokens + excluded.sampled_tokens`,
            }),
          )
          .execute();
      }
    });
  }

  /** Oldest first, from that day on. */
  async since(owner: string, day: string): Promise<DayUsage[]> {
    const rows = await this.#database.db
      .selectFrom('usage_days')
      .selectAll()
      .where('owner', '=', owner)
      .where('day', '>=', day)
      .orderBy('day')
      .execute();
    return rows.map((row) => ({
      owner: row.owner,
      day: row.day,
      trainedTokens: Number(row.trained_tokens),
      steps: Number(row.steps),
      promptTokens: Number(row.prompt_tokens),
      sampledTokens: Number(row.sampled_tokens),
    }));
  }

  /** Forgets the days before this one. */
  async sweep(before: string): Promise<void> {
    await this.#database.write(async (db) => {
      await db.deleteFrom('usage_days').where('day', '<', before).execute();
    });
  }
}

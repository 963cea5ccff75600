import { type Kysely, sql } from 'kysely';
import { chunks } from './chunks.ts';
import type { Database } from './database.ts';
import type { Tables } from './schema.ts';

/** What one optimizer step reported. */
export interface StepMetrics {
  runId: string;
  /** The number that the model counts; a run's points are numbered upwards even where the model goes back. */
  step: number;
  at: number;
  metrics: Record<string, number>;
}

/** What the latest step of a run was computed with, by name. */
export type RunSettings = Record<string, string | number>;

/** Metrics of training runs, step by step, thinned where a run grows long. */
export class RunMetricsStore {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  /**
   * Adds steps, in order, and returns them with the numbers that they got. A run with more than `keep` of them loses
   * every second one of its older half.
   */
  async add(steps: readonly StepMetrics[], keep: number): Promise<StepMetrics[]> {
    if (steps.length === 0) return [];
    return await this.#database.write(async (db) => {
      const latest = new Map<string, number>();
      const numbered: StepMetrics[] = [];
      for (const entry of steps) {
        const before = latest.get(entry.runId) ?? (await lastStep(db, entry.runId));
        const step = Math.max(before + 1, entry.step);
        latest.set(entry.runId, step);
        numbered.push({ ...entry, step });
      }
      const rows = numbered.map(({ runId, step, at, metrics }) => {
        return { run_id: runId, step, at, metrics: JSON.stringify(metrics) };
      });
      for (const part of chunks(rows)) await db.insertInto('run_metrics').values(part).execute();
      for (const runId of latest.keys()) await thin(db, runId, keep);
      return numbered;
    });
  }

  /** In order; those after `after` only. */
  async ofRun(runId: string, after = -1): Promise<StepMetrics[]> {
    const rows = await this.#database.db
      .selectFrom('run_metrics')
      .selectAll()
      .where('run_id', '=', runId)
      .where('step', '>', after)
      .orderBy('step')
      .execute();
    return rows.map(fromRow);
  }

  /** The latest step of each of these runs that has any. */
  async latest(runIds: readonly string[]): Promise<StepMetrics[]> {
    const found: StepMetrics[] = [];
    for (const part of chunks(runIds)) {
      const rows = await this.#database.db
        .selectFrom('run_metrics as point')
        .selectAll()
        .where('run_id', 'in', part)
        .where('step', '=', (db) =>
          db
            .selectFrom('run_metrics as other')
            .select(sql<number>`max(other.step)`.as('last'))
            .whereRef('other.run_id', '=', 'point.run_id'),
        )
        .execute();
      found.push(...rows.map(fromRow));
    }
    return found;
  }

  /** Records what runs are trained with now. */
  async setSettings(settings: ReadonlyMap<string, RunSettings>): Promise<void> {
    if (settings.size === 0) return;
    await this.#database.write(async (db) => {
      for (const [runId, value] of settings) {
        const text = JSON.stringify(value);
        await db
          .insertInto('run_settings')
          .values({ run_id: runId, settings: text })
          .onConflict((conflict) => conflict.column('run_id').doUpdateSet({ settings: text }))
          .execute();
      }
    });
  }

  async settings(runId: string): Promise<RunSettings | undefined> {
    const row = await this.#database.db
      .selectFrom('run_settings')
      .selectAll()
      .where('run_id', '=', runId)
      .executeTakeFirst();
    return row && JSON.parse(row.settings);
  }

  /** Removes the metrics of runs that nobody has used since `before`. */
  async sweep(before: number): Promise<void> {
    await this.#database.write(async (db) => {
      for (const table of ['run_metrics', 'run_settings'] as const) {
        await db
          .deleteFrom(table)
          .where('run_id', 'in', (runs) =>
            runs.selectFrom('training_runs').select('id').where('last_request_at', '<', before),
          )
          .execute();
      }
    });
  }
}

async function lastStep(db: Kysely<Tables>, runId: string): Promise<number> {
  const row = await db
    .selectFrom('run_metrics')
    .select(sql<number | null>`max(step)`.as('last'))
    .where('run_id', '=', runId)
    .executeTakeFirst();
  return Number(row?.last ?? 0);
}

async function thin(db: Kysely<Tables>, runId: string, keep: number): Promise<void> {
  const { count } = await db
    .selectFrom('run_metrics')
    .select(sql<number>`count(*)`.as('count'))
    .where('run_id', '=', runId)
    .executeTakeFirstOrThrow();
  const kept = Number(count);
  if (kept <= keep) return;
  await sql`
    delete from run_metrics where run_id = ${runId} and step in (
      select step from (
        select step, row_number() over (order by step) as place from run_metrics where run_id = ${runId}
      ) as placed
      where place % 2 = 0 and place <= ${Math.ceil(kept / 2)}
    )`.execute(db);
}

function fromRow(row: { run_id: string; step: number; at: number; metrics: string }): StepMetrics {
  return { runId: row.run_id, step: row.step, at: row.at, metrics: JSON.parse(row.metrics) };
}

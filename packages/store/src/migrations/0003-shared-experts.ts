import type { Kysely } from 'kysely';

/** Whether the experts of a run's model share a side of their adapters. */
export async function up(db: Kysely<unknown>): Promise<void> {
  await db.schema
    .alterTable('training_runs')
    .addColumn('share_experts', 'integer', (c) => c.notNull().defaultTo(0))
    .execute();
}

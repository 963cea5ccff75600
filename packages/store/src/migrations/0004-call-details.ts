import type { Kysely } from 'kysely';

/** When a request's work began and what it was, and the order in which a model's requests ended. */
export async function up(db: Kysely<unknown>): Promise<void> {
  await db.schema.alterTable('futures').addColumn('started_at', 'bigint').execute();
  await db.schema.alterTable('futures').addColumn('detail', 'text').execute();
  await db.schema
    .createIndex('futures_model_ended')
    .on('futures')
    .columns(['model_id', 'completion'])
    .execute();
  await db.schema.dropIndex('futures_model').execute();
}

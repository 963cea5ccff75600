import type { Kysely } from 'kysely';

/** What is recorded for people to look at: metrics of each step, sampled texts, and usage by day. */
export async function up(db: Kysely<unknown>): Promise<void> {
  await db.schema
    .createTable('run_metrics')
    .addColumn('run_id', 'text', (c) => c.notNull())
    .addColumn('step', 'integer', (c) => c.notNull())
    .addColumn('at', 'bigint', (c) => c.notNull())
    .addColumn('metrics', 'text', (c) => c.notNull())
    .addPrimaryKeyConstraint('run_metrics_pk', ['run_id', 'step'])
    .execute();

  await db.schema
    .createTable('run_settings')
    .addColumn('run_id', 'text', (c) => c.primaryKey())
    .addColumn('settings', 'text', (c) => c.notNull())
    .execute();

  await db.schema
    .createTable('rollouts')
    .addColumn('id', 'text', (c) => c.primaryKey())
    .addColumn('session_id', 'text', (c) => c.notNull())
    .addColumn('owner', 'text', (c) => c.notNull())
    .addColumn('sampler_id', 'text', (c) => c.notNull())
    .addColumn('base_model', 'text', (c) => c.notNull())
    .addColumn('model_path', 'text')
    .addColumn('at', 'bigint', (c) => c.notNull())
    .addColumn('summary', 'text', (c) => c.notNull())
    .addColumn('tokens', 'text', (c) => c.notNull())
    .execute();
  await db.schema.createIndex('rollouts_session').on('rollouts').columns(['session_id', 'at']).execute();
  await db.schema.createIndex('rollouts_owner').on('rollouts').columns(['owner', 'at']).execute();
  await db.schema.createIndex('rollouts_at').on('rollouts').column('at').execute();

  await db.schema
    .createTable('usage_days')
    .addColumn('owner', 'text', (c) => c.notNull())
    .addColumn('day', 'text', (c) => c.notNull())
    .addColumn('trained_tokens', 'bigint', (c) => c.notNull())
    .addColumn('steps', 'bigint', (c) => c.notNull())
    .addColumn('prompt_tokens', 'bigint', (c) => c.notNull())
    .addColumn('sampled_tokens', 'bigint', (c) => c.notNull())
    .addPrimaryKeyConstraint('usage_days_pk', ['owner', 'day'])
    .execute();
}

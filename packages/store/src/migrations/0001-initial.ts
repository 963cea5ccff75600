import type { Kysely } from 'kysely';
import type { ColumnTypes } from './column-types.ts';

/** Keys, sessions, training runs, samplers, checkpoints and futures. */
export async function up(db: Kysely<unknown>, types: ColumnTypes): Promise<void> {
  await db.schema
    .createTable('settings')
    .addColumn('name', 'text', (c) => c.primaryKey())
    .addColumn('value', 'text', (c) => c.notNull())
    .execute();

  await db.schema
    .createTable('api_keys')
    .addColumn('id', 'text', (c) => c.primaryKey())
    .addColumn('owner', 'text', (c) => c.notNull())
    .addColumn('label', 'text', (c) => c.notNull())
    .addColumn('key_hash', 'text', (c) => c.notNull().unique())
    .addColumn('created_at', 'bigint', (c) => c.notNull())
    .addColumn('revoked_at', 'bigint')
    .execute();

  await db.schema
    .createTable('sessions')
    .addColumn('id', 'text', (c) => c.primaryKey())
    .addColumn('owner', 'text', (c) => c.notNull())
    .addColumn('project_id', 'text')
    .addColumn('display_name', 'text')
    .addColumn('tags', 'text', (c) => c.notNull())
    .addColumn('user_metadata', 'text', (c) => c.notNull())
    .addColumn('sdk_version', 'text', (c) => c.notNull())
    .addColumn('created_at', 'bigint', (c) => c.notNull())
    .addColumn('last_heartbeat_at', 'bigint', (c) => c.notNull())
    .addColumn('finished_at', 'bigint')
    .addColumn('finish_reason', 'text')
    .addColumn('finish_detail', 'text')
    .execute();
  await db.schema.createIndex('sessions_owner').on('sessions').columns(['owner', 'created_at']).execute();

  await db.schema
    .createTable('training_runs')
    .addColumn('id', 'text', (c) => c.primaryKey())
    .addColumn('session_id', 'text', (c) => c.notNull())
    .addColumn('owner', 'text', (c) => c.notNull())
    .addColumn('project_id', 'text')
    .addColumn('base_model', 'text', (c) => c.notNull())
    .addColumn('lora_rank', 'integer', (c) => c.notNull())
    .addColumn('lora_alpha', types.float, (c) => c.notNull())
    .addColumn('lora_seed', 'text')
    .addColumn('train_attn', 'integer', (c) => c.notNull())
    .addColumn('train_mlp', 'integer', (c) => c.notNull())
    .addColumn('train_unembed', 'integer', (c) => c.notNull())
    .addColumn('user_metadata', 'text')
    .addColumn('created_at', 'bigint', (c) => c.notNull())
    .addColumn('last_request_at', 'bigint', (c) => c.notNull())
    .addColumn('last_seq', 'text', (c) => c.notNull())
    .addColumn('corrupted', 'integer', (c) => c.notNull())
    .addColumn('unloaded_at', 'bigint')
    .addColumn('snapshot_seq', 'text')
    .addColumn('snapshot_step', 'bigint')
    .addColumn('snapshot_blob', 'text')
    .addColumn('snapshot_optimizer', 'integer', (c) => c.notNull())
    .addColumn('changed_seq', 'text', (c) => c.notNull())
    .execute();
  await db.schema.createIndex('runs_owner').on('training_runs').columns(['owner', 'created_at']).execute();
  await db.schema.createIndex('runs_session').on('training_runs').column('session_id').execute();

  await db.schema
    .createTable('samplers')
    .addColumn('id', 'text', (c) => c.primaryKey())
    .addColumn('session_id', 'text', (c) => c.notNull())
    .addColumn('owner', 'text', (c) => c.notNull())
    .addColumn('base_model', 'text', (c) => c.notNull())
    .addColumn('model_path', 'text')
    .addColumn('blob', 'text')
    .addColumn('clones', 'integer', (c) => c.notNull())
    .addColumn('created_at', 'bigint', (c) => c.notNull())
    .addColumn('last_used_at', 'bigint', (c) => c.notNull())
    .addColumn('expired_at', 'bigint')
    .execute();
  await db.schema.createIndex('samplers_session').on('samplers').column('session_id').execute();
  await db.schema.createIndex('samplers_blob').on('samplers').column('blob').execute();

  await db.schema
    .createTable('checkpoints')
    .addColumn('run_id', 'text', (c) => c.notNull())
    .addColumn('kind', 'text', (c) => c.notNull())
    .addColumn('name', 'text', (c) => c.notNull())
    .addColumn('owner', 'text', (c) => c.notNull())
    .addColumn('blob', 'text', (c) => c.notNull())
    .addColumn('files', 'text', (c) => c.notNull())
    .addColumn('size_bytes', 'bigint', (c) => c.notNull())
    .addColumn('public', 'integer', (c) => c.notNull())
    .addColumn('user_metadata', 'text')
    .addColumn('base_model', 'text', (c) => c.notNull())
    .addColumn('lora_rank', 'integer', (c) => c.notNull())
    .addColumn('train_attn', 'integer', (c) => c.notNull())
    .addColumn('train_mlp', 'integer', (c) => c.notNull())
    .addColumn('train_unembed', 'integer', (c) => c.notNull())
    .addColumn('created_at', 'bigint', (c) => c.notNull())
    .addColumn('expires_at', 'bigint')
    .addPrimaryKeyConstraint('checkpoints_pk', ['run_id', 'kind', 'name'])
    .execute();
  await db.schema
    .createIndex('checkpoints_owner')
    .on('checkpoints')
    .columns(['owner', 'created_at'])
    .execute();
  await db.schema.createIndex('checkpoints_blob').on('checkpoints').column('blob').execute();
  await db.schema.createIndex('checkpoints_expiry').on('checkpoints').column('expires_at').execute();

  await db.schema
    .createTable('futures')
    .addColumn('request_id', 'text', (c) => c.primaryKey())
    .addColumn('owner', 'text', (c) => c.notNull())
    .addColumn('kind', 'text', (c) => c.notNull())
    .addColumn('model_id', 'text')
    .addColumn('sampler_id', 'text')
    .addColumn('seq', 'text')
    .addColumn('body_hash', 'text', (c) => c.notNull())
    .addColumn('state', 'text', (c) => c.notNull())
    .addColumn('result_type', 'text')
    .addColumn('result_size', 'bigint')
    .addColumn('error', 'text')
    .addColumn('category', 'text')
    .addColumn('created_at', 'bigint', (c) => c.notNull())
    .addColumn('finished_at', 'bigint')
    .addColumn('read_at', 'bigint')
    .addColumn('completion', 'bigint', (c) => c.notNull())
    .execute();
  await db.schema.createIndex('futures_model').on('futures').column('model_id').execute();
  await db.schema
    .createIndex('futures_sampler')
    .on('futures')
    .columns(['sampler_id', 'completion'])
    .execute();
  await db.schema.createIndex('futures_state').on('futures').columns(['state', 'finished_at']).execute();

  await db.schema
    .createTable('future_results')
    .addColumn('request_id', 'text', (c) => c.primaryKey())
    .addColumn('body', types.bytes, (c) => c.notNull())
    .execute();
}

import type { Database } from './database.ts';

/** Whether a checkpoint, a sampler or a live snapshot still needs the folder under this key. */
export async function isBlobUsed(database: Database, blob: string): Promise<boolean> {
  const { db } = database;
  const holders = await Promise.all([
    db.selectFrom('checkpoints').select('name').where('blob', '=', blob).limit(1).executeTakeFirst(),
    db.selectFrom('samplers').select('id').where('blob', '=', blob).limit(1).executeTakeFirst(),
    db.selectFrom('training_runs').select('id').where('snapshot_blob', '=', blob).limit(1).executeTakeFirst(),
  ]);
  return holders.some((holder) => holder !== undefined);
}

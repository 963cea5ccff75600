import type { Kysely } from 'kysely';
import { Migrator } from 'kysely/migration';
import * as initial from './0001-initial.ts';
import * as recordings from './0002-recordings.ts';
import * as sharedExperts from './0003-shared-experts.ts';
import * as callDetails from './0004-call-details.ts';
import type { ColumnTypes } from './column-types.ts';

interface SchemaStep {
  up(db: Kysely<unknown>, types: ColumnTypes): Promise<void>;
}

/** In order, by name. A released step is never edited: a change is a new step. */
const steps: Record<string, SchemaStep> = {
  '0001-initial': initial,
  '0002-recordings': recordings,
  '0003-shared-experts': sharedExperts,
  '0004-call-details': callDetails,
};

/**
 * Brings the database to this version's schema. Safe to call from several processes at once.
 *
 * @throws Error when a step fails; the database is then as before that step.
 */
export async function migrate<T>(db: Kysely<T>, types: ColumnTypes): Promise<void> {
  const migrations = Object.fromEntries(
    Object.entries(steps).map(([name, step]) => [
      name,
      { up: (target: Kysely<unknown>) => step.up(target, types) },
    ]),
  );
  const migrator = new Migrator({ db, provider: { getMigrations: async () => migrations } });
  const { error } = await migrator.migrateToLatest();
  if (error) {
    throw new Error('The database could not be brought to this version of Anneal', { cause: error });
  }
}

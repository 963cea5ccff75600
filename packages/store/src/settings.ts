import { randomBytes } from 'node:crypto';
import type { Database } from './database.ts';

/** Small values that belong to the installation, such as the secret that signs download URLs. */
export class SettingsStore {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  /** 256 random bits under this name, made at first use and the same ever after. */
  async secret(name: string): Promise<string> {
    await this.#database.write(async (db) => {
      await db
        .insertInto('settings')
        .values({ name, value: randomBytes(32).toString('hex') })
        .onConflict((conflict) => conflict.column('name').doNothing())
        .execute();
    });
    const row = await this.#database.db
      .selectFrom('settings')
      .select('value')
      .where('name', '=', name)
      .executeTakeFirstOrThrow();
    return row.value;
  }
}

import { type Kysely, sql } from 'kysely';
import type { Tables } from './schema.ts';

/** What a write does, on the connection that its transaction runs on. */
export type Work<T> = (db: Kysely<Tables>) => Promise<T>;

interface Pending {
  run(db: Kysely<Tables>): Promise<void>;
  settle(commitError?: unknown): void;
}

const LARGEST_GROUP = 256;

/**
 * Joins writes that arrive together into one transaction, so that a hundred acknowledgements cost one disk sync. Each
 * write sits in its own savepoint: one that fails is undone alone. A write resolves only after the commit.
 */
export class WriteGroup {
  readonly #db: Kysely<Tables>;
  #pending: Pending[] = [];
  #running: Promise<void> | undefined;

  constructor(db: Kysely<Tables>) {
    this.#db = db;
  }

  write<T>(work: Work<T>): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      let settle = (): void => {};
      this.#pending.push({
        run: async (db) => {
          try {
            const value = await work(db);
            settle = () => resolve(value);
          } catch (error) {
            settle = () => reject(error);
            throw error;
          }
        },
        settle: (commitError) => (commitError === undefined ? settle() : reject(commitError)),
      });
      this.#running ??= this.#drain();
    });
  }

  /** Resolves when everything written so far is on disk. */
  async idle(): Promise<void> {
    await this.#running;
  }

  async #drain(): Promise<void> {
    await new Promise((resolve) => setImmediate(resolve));
    while (this.#pending.length > 0) {
      const group = this.#pending.splice(0, LARGEST_GROUP);
      let commitError: unknown;
      try {
        await this.#db.connection().execute((connection) => commit(connection, group));
      } catch (error) {
        commitError = error ?? new Error('The database refused a transaction');
      }
      for (const item of group) item.settle(commitError);
      await new Promise((resolve) => setImmediate(resolve));
    }
    this.#running = undefined;
  }
}

async function commit(db: Kysely<Tables>, group: Pending[]): Promise<void> {
  await sql`begin immediate`.execute(db);
  try {
    for (const item of group) {
      await sql`savepoint item`.execute(db);
      try {
        await item.run(db);
      } catch {
        await sql`rollback to item`.execute(db);
      }
      await sql`release item`.execute(db);
    }
    await sql`commit`.execute(db);
  } catch (error) {
    await sql`rollback`.execute(db).catch(() => {});
    throw error;
  }
}

import { setTimeout as delay } from 'node:timers/promises';
import Sqlite from 'better-sqlite3';
import { Kysely, PostgresDialect, type SqliteDatabase, SqliteDialect, type SqliteStatement } from 'kysely';
import pg from 'pg';
import { postgresTypes, sqliteTypes } from './migrations/column-types.ts';
import { migrate } from './migrations/index.ts';
import type { Tables } from './schema.ts';
import { type Work, WriteGroup } from './write-group.ts';

/** Rows, on whichever database is configured. Nothing above this knows which one. */
export interface Database {
  /** For reads. */
  readonly db: Kysely<Tables>;
  /** Runs `work` in a transaction and resolves once it is durable. */
  write<T>(work: Work<T>): Promise<T>;
  /**
   * Claims the database for this process until it is closed; others may still open it.
   *
   * @throws DatabaseInUseError when another process has claimed it.
   */
  claim(): Promise<void>;
  close(): Promise<void>;
}

/** Another server works on the database. */
export class DatabaseInUseError extends Error {
  override readonly name = 'DatabaseInUseError';
}

/** One SQLite file in WAL mode, synced at each commit; `:memory:` for tests. */
export async function openSqlite(file: string): Promise<Database> {
  const sqlite = new Sqlite(file);
  sqlite.pragma('journal_mode = WAL');
  sqlite.pragma('synchronous = FULL');
  sqlite.pragma('busy_timeout = 5000');
  const db = new Kysely<Tables>({ dialect: new SqliteDialect({ database: withStatementCache(sqlite) }) });
  await migrate(db, sqliteTypes);
  const group = new WriteGroup(db);
  return {
    db,
    write: (work) => group.write(work),
    // A SQLite file lies in a data folder, which has a lock of its own.
    claim: async () => {},
    close: async () => {
      await group.idle();
      await db.destroy();
    },
  };
}

const CACHED_STATEMENTS = 300;

/** Preparing a statement costs more than running it, and few different ones make up nearly all. */
function withStatementCache(sqlite: Sqlite.Database): SqliteDatabase {
  const statements = new Map<string, SqliteStatement>();
  return {
    close: () => void sqlite.close(),
    prepare: (sql) => {
      const known = statements.get(sql);
      if (known) return known;
      if (statements.size >= CACHED_STATEMENTS) statements.clear();
      const statement = sqlite.prepare<unknown[]>(sql) as SqliteStatement;
      statements.set(sql, statement);
      return statement;
    },
  };
}

/** Whether the database refused a text, as PostgreSQL does with NUL characters. */
export function isTextRefused(error: unknown): boolean {
  return (error as { code?: unknown } | undefined)?.code === '22021';
}

const INT8 = 20;

/** Key of the advisory lock that a server holds while it runs. */
const CLAIM = 0x616e6e65;

/** The database notices the end of a killed server only after a moment. */
const CLAIM_ATTEMPTS = 10;
const CLAIM_PAUSE_MS = 300;

/** A PostgreSQL database, by URL (`postgres://user@host/name`). */
export async function openPostgres(url: string): Promise<Database> {
  const pool = new pg.Pool({
    connectionString: url,
    types: {
      getTypeParser: (oid: number, format?: 'text' | 'binary') =>
        oid === INT8 ? Number : pg.types.getTypeParser(oid, format),
    },
  });
  let claimant: pg.PoolClient | undefined;
  pool.on('error', () => {
    // An idle connection broke; the pool replaces it, and the next query reports if the server is gone.
  });
  const db = new Kysely<Tables>({ dialect: new PostgresDialect({ pool }) });
  await migrate(db, postgresTypes);
  return {
    db,
    write: (work) => db.transaction().execute(work),
    claim: async () => {
      claimant ??= await pool.connect();
      claimant.on('error', () => {
        // The connection broke, and with it the claim; the next query tells whether the database is gone.
      });
      for (let attempt = 1; attempt <= CLAIM_ATTEMPTS; attempt += 1) {
        const { rows } = await claimant.query('select pg_try_advisory_lock($1) as claimed', [CLAIM]);
        if (rows[0]?.claimed === true) return;
        await delay(CLAIM_PAUSE_MS);
      }
      throw new DatabaseInUseError('The database is in use by another server');
    },
    close: async () => {
      await claimant?.query('select pg_advisory_unlock_all()').catch(() => {});
      claimant?.release(true);
      await db.destroy();
    },
  };
}

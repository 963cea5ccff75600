import { createHash, randomBytes, randomUUID } from 'node:crypto';
import type { Database } from './database.ts';

/** An API key as listed: never the secret, which only its creation returns. */
export interface ApiKey {
  id: string;
  owner: string;
  label: string;
  createdAt: number;
  revokedAt: number | null;
}

/** API keys, stored as SHA-256 hashes: they are 256 random bits, so no salt or slow hash is needed. */
export class KeyStore {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  /** Makes a key that starts with `tml-`, as the SDK demands. The secret cannot be read again. */
  async create(owner: string, label: string): Promise<{ key: ApiKey; secret: string }> {
    const secret = `tml-${randomBytes(32).toString('base64url')}`;
    return { key: await this.add(owner, label, secret), secret };
  }

  /** Registers a given secret; an existing one keeps its owner and becomes valid again. */
  async add(owner: string, label: string, secret: string): Promise<ApiKey> {
    const hash = hashKey(secret);
    const row = {
      id: randomUUID(),
      owner,
      label,
      key_hash: hash,
      created_at: Date.now(),
      revoked_at: null,
    };
    await this.#database.write(async (db) => {
      await db
        .insertInto('api_keys')
        .values(row)
        .onConflict((conflict) => conflict.column('key_hash').doUpdateSet({ revoked_at: null }))
        .execute();
    });
    const key = await this.find(secret);
    if (!key) throw new Error('The API key was revoked while it was being added');
    return key;
  }

  /** The valid key with this secret. */
  async find(secret: string): Promise<ApiKey | undefined> {
    const row = await this.#database.db
      .selectFrom('api_keys')
      .selectAll()
      .where('key_hash', '=', hashKey(secret))
      .where('revoked_at', 'is', null)
      .executeTakeFirst();
    return row && toKey(row);
  }

  async list(): Promise<ApiKey[]> {
    const rows = await this.#database.db.selectFrom('api_keys').selectAll().orderBy('created_at').execute();
    return rows.map(toKey);
  }

  /** False when there is no valid key with this id. */
  async revoke(id: string): Promise<boolean> {
    return await this.#database.write(async (db) => {
      const result = await db
        .updateTable('api_keys')
        .set({ revoked_at: Date.now() })
        .where('id', '=', id)
        .where('revoked_at', 'is', null)
        .executeTakeFirst();
      return result.numUpdatedRows > 0n;
    });
  }
}

function hashKey(secret: string): string {
  return createHash('sha256').update(secret).digest('hex');
}

function toKey(row: {
  id: string;
  owner: string;
  label: string;
  created_at: number;
  revoked_at: number | null;
}): ApiKey {
  return {
    id: row.id,
    owner: row.owner,
    label: row.label,
    createdAt: row.created_at,
    revokedAt: row.revoked_at,
  };
}

import type { ApiKey, Store } from '@anneal/store';
import { ApiError } from '../errors.ts';

/** The presented key. */
export class KeyService {
  readonly #store: Store;

  constructor(store: Store) {
    this.#store = store;
  }

  async get(id: string): Promise<ApiKey> {
    const key = (await this.#store.keys.list()).find((candidate) => candidate.id === id);
    if (!key) throw new ApiError('not_found', 'The API key is unknown');
    return key;
  }

  async revoke(id: string): Promise<void> {
    await this.#store.keys.revoke(id);
  }
}

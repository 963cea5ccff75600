import type { Store } from '@anneal/store';
import type { ConsoleKeys, ConsoleUsage } from '@anneal/types/console';
import { ApiError } from '../errors.ts';
import { dayOf } from './recorder.ts';

const DAY = 86_400_000;

/** Keys and usage of the owner whose key came with the request. */
export class ConsoleAccountService {
  readonly #store: Store;

  constructor(store: Store) {
    this.#store = store;
  }

  async keys(owner: string, currentId: string): Promise<ConsoleKeys['keys']> {
    const keys = (await this.#store.keys.list()).filter((key) => key.owner === owner);
    return keys.map((key) => ({
      key_id: key.id,
      label: key.label,
      created_at: key.createdAt,
      revoked_at: key.revokedAt,
      current: key.id === currentId,
    }));
  }

  /** @throws ApiError `not_found` unless the owner has a valid key with this id. */
  async revoke(keyId: string, owner: string): Promise<void> {
    const key = (await this.#store.keys.list()).find(({ id }) => id === keyId);
    if (!key || key.owner !== owner || !(await this.#store.keys.revoke(keyId))) {
      throw new ApiError('not_found', `key_id "${keyId}" is unknown or revoked already`);
    }
  }

  async usage(owner: string, days: number): Promise<ConsoleUsage> {
    const [used, checkpoints, runs] = await Promise.all([
      this.#store.dailyUsage.since(owner, dayOf(Date.now() - (days - 1) * DAY)),
      this.#store.usage.storage(owner),
      this.#store.runs.list(owner, { limit: 1, offset: 0, accessible: false }),
    ]);
    return {
      days: used.map((day) => ({
        day: day.day,
        trained_tokens: day.trainedTokens,
        steps: day.steps,
        prompt_tokens: day.promptTokens,
        sampled_tokens: day.sampledTokens,
      })),
      checkpoints: checkpoints.reduce((sum, { count }) => sum + count, 0),
      checkpoint_bytes: checkpoints.reduce((sum, { bytes }) => sum + bytes, 0),
      runs: runs.total,
    };
  }
}

import type { Page, Store, TrainingRun } from '@anneal/store';
import { ApiError } from '../errors.ts';

/** Rows of one page at most, whatever is asked for. */
const LARGEST_PAGE = 1000;

export function pageSize(limit: number): number {
  return Math.min(limit, LARGEST_PAGE);
}

export type AccessScope = 'owned' | 'accessible';

/** Training runs as their owners, and readers of what they published, see them. */
export class RunService {
  readonly #store: Store;

  constructor(store: Store) {
    this.#store = store;
  }

  /** Newest first. */
  list(
    owner: string,
    query: { limit: number; offset: number; access_scope: AccessScope; project_id?: string },
  ): Promise<Page<TrainingRun>> {
    const { offset, project_id: projectId } = query;
    const limit = pageSize(query.limit);
    const accessible = query.access_scope === 'accessible';
    return this.#store.runs.list(owner, { limit, offset, accessible, ...(projectId ? { projectId } : {}) });
  }

  /** @throws ApiError `not_found` when the owner may not see it. */
  async get(id: string, owner: string, scope: AccessScope): Promise<TrainingRun> {
    const run = await this.#store.runs.get(id);
    if (run?.owner === owner) return run;
    if (run && scope === 'accessible') {
      const published = (await this.#store.checkpoints.ofRun(id)).some((checkpoint) => checkpoint.public);
      if (published) return run;
    }
    throw new ApiError('not_found', `training_run_id "${id}" is unknown`);
  }
}

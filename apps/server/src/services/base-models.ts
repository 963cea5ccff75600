import type { BaseModelInfo } from '@anneal/engine';
import { ApiError } from '../errors.ts';

/** The base models that the engine holds, by each name under which they are served. */
export class BaseModels {
  readonly all: readonly BaseModelInfo[];
  readonly #byName: Map<string, BaseModelInfo>;

  constructor(models: readonly BaseModelInfo[]) {
    this.all = models;
    this.#byName = new Map(models.map((model) => [model.name, model]));
  }

  /** @throws ApiError `not_found` that lists what is served. */
  get(name: string): BaseModelInfo {
    const model = this.#byName.get(name);
    if (model) return model;
    const served = [...this.#byName.keys()].join(', ');
    throw new ApiError('not_found', `base_model "${name}" is not served here; served: ${served}`);
  }

  find(name: string): BaseModelInfo | undefined {
    return this.#byName.get(name);
  }

  /** Name of the tokenizer: that of the first model with the same folder, of which the others are aliases. */
  tokenizerOf(name: string): string {
    const model = this.get(name);
    return this.all.find((other) => other.folder === model.folder)?.name ?? name;
  }
}

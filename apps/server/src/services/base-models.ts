import type { BaseModelInfo } from '@anneal/engine';
import type { ServedModel } from '../config.ts';
import { ApiError } from '../errors.ts';

/** The base models that the engine serves, loaded or not, by each name under which they are served. */
export class BaseModels {
  readonly all: readonly BaseModelInfo[];
  readonly #byName: Map<string, BaseModelInfo>;
  readonly #tokenizers: Map<string, string | undefined>;

  /** @param served The configuration's entry of each model, for what the engine does not know. */
  constructor(models: readonly BaseModelInfo[], served: readonly ServedModel[]) {
    this.all = models;
    this.#tokenizers = new Map(served.map(({ name, tokenizer }) => [name, tokenizer]));
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

  /** What clients load the tokenizer by: of an alias, that of the model behind it. */
  tokenizerOf(name: string): string {
    const { folder } = this.get(name);
    const first = this.all.find((other) => other.folder === folder)?.name ?? name;
    return this.#tokenizers.get(first) ?? first;
  }
}

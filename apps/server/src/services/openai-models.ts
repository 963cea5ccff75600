import type { BaseModelInfo } from '@anneal/engine';
import type { Tokenizer } from '@anneal/tokenizer';
import { loadTokenizer } from '@anneal/tokenizer/node';
import { ApiError } from '../errors.ts';
import type { BaseModels } from './base-models.ts';
import { OpenAiRefusal } from './openai-refusal.ts';
import type { Weights } from './sampler-pool.ts';
import type { SamplerService } from './samplers.ts';

/** What a request's `model` names. */
export interface OpenAiModel {
  /** As the request gave it. */
  id: string;
  owner: string;
  weights: Weights;
  /** The checkpoint's path; absent for a base model. */
  path: string | undefined;
  info: BaseModelInfo;
}

export interface OpenAiModelsDeps {
  baseModels: BaseModels;
  samplers: SamplerService;
}

const PATH = /^(tinker|logits):\/\//;

/** Models by the names that OpenAI clients use: base models, and paths of checkpoints. */
export class OpenAiModels {
  readonly #services: OpenAiModelsDeps;
  readonly #tokenizers = new Map<string, Promise<Tokenizer>>();

  constructor(services: OpenAiModelsDeps) {
    this.#services = services;
  }

  /** Names of the base models. Checkpoints are found by their paths. */
  get names(): string[] {
    return this.#services.baseModels.all.map(({ name }) => name);
  }

  /** @throws OpenAiRefusal `model_not_found` for what is not served, or not readable by this owner. */
  async find(id: string, owner: string): Promise<OpenAiModel> {
    const path = PATH.test(id) ? id : undefined;
    const named = path === undefined ? { base_model: id } : { model_path: path };
    try {
      const weights = await this.#services.samplers.resolve(owner, named);
      return { id, owner, weights, path, info: this.#services.baseModels.get(weights.baseModel) };
    } catch (cause) {
      if (!(cause instanceof ApiError) || cause.category === 'server') throw cause;
      const problem =
        path === undefined
          ? `model "${id}" is not served here; served: ${this.names.join(', ')}, and tinker:// paths`
          : `model "${id}" was not found: ${cause.message}`;
      throw new OpenAiRefusal('not_found', problem, { param: 'model', code: 'model_not_found', cause });
    }
  }

  /** The tokenizer of the base model, read once. */
  tokenizer({ info: { folder } }: Pick<OpenAiModel, 'info'>): Promise<Tokenizer> {
    const known = this.#tokenizers.get(folder);
    if (known) return known;
    const loading = loadTokenizer(folder);
    this.#tokenizers.set(folder, loading);
    loading.catch(() => this.#tokenizers.delete(folder));
    return loading;
  }
}

/** A checkpoint folder that is served, and what works on it. All but the weights is there from the start. */
import type { Tokenizer } from '@anneal/tokenizer';
import { loadTokenizer } from '@anneal/tokenizer/node';
import { type BaseModelInfo, EngineError } from './engine.ts';
import { BaseModel } from './models/base-model.ts';
import type { Precision } from './models/weight-source.ts';
import type { Loadable } from './residency.ts';
import { Sampler } from './sampling/sampler.ts';
import { Trainer } from './training/trainer.ts';
import { visionInfo } from './vision/image-spans.ts';

export interface ServedModelOptions {
  precision: Precision;
  /** Bytes of activations that one training pass may keep. */
  activationBudgetBytes?: number;
  /** Bytes that keys and values of running samples may take, per base model. */
  kvBudgetBytes?: number;
  /** Bytes that keys and values of earlier prompts may take, per base model. */
  prefixBudgetBytes?: number;
  /** Sequences that decode together at most. */
  maxSlots?: number;
}

const GIB = 2 ** 30;

export class ServedModel implements Loadable {
  /** The first of the names under which it is served. */
  readonly name: string;
  readonly base: BaseModel;
  readonly trainer: Trainer;
  readonly sampler: Sampler;
  readonly #hasQueuedWork: (model: ServedModel) => boolean;

  private constructor(
    name: string,
    base: BaseModel,
    tokenizer: Tokenizer | Error,
    options: ServedModelOptions,
    hasQueuedWork: (model: ServedModel) => boolean,
  ) {
    this.name = name;
    this.base = base;
    this.#hasQueuedWork = hasQueuedWork;
    this.trainer = new Trainer(base, { activationBudgetBytes: options.activationBudgetBytes ?? 1.5 * GIB });
    this.sampler = new Sampler(base, this.trainer.head, {
      maxSlots: options.maxSlots ?? 64,
      kvBudgetBytes: options.kvBudgetBytes ?? 2 * GIB,
      ...(options.prefixBudgetBytes === undefined ? {} : { prefixBudgetBytes: options.prefixBudgetBytes }),
      // A second's work on two cores: what others wait for at most.
      prefillTokens: 1024,
      // Measured on CPU in fp32: a fused decode layer is 15 to 25 % faster, and compiles in under a second per shape.
      xla: true,
      tokenizer: () => usable(tokenizer),
    });
  }

  /** Reads what the folder says of the model, and its tokenizer; the weights are loaded when work needs them. */
  static async open(
    name: string,
    folder: string,
    options: ServedModelOptions,
    hasQueuedWork: (model: ServedModel) => boolean,
  ): Promise<ServedModel> {
    const base = BaseModel.open(folder, options.precision);
    const tokenizer = await loadTokenizer(folder).catch((error: Error) => error);
    return new ServedModel(name, base, tokenizer, options, hasQueuedWork);
  }

  get weightBytes(): number {
    return this.base.weightBytes;
  }

  /** @param name One of those under which it is served. */
  info(name: string): BaseModelInfo {
    const { folder, config, weightBytes } = this.base;
    return {
      name,
      folder,
      arch: config.modelType,
      maxContextLength: config.maxContextLength,
      vocabSize: config.vocabSize,
      hiddenSize: config.hiddenSize,
      numLayers: config.numLayers,
      eosTokenIds: config.eosTokenIds,
      weightBytes,
      vision: visionInfo(this.base),
    };
  }

  hasQueuedWork(): boolean {
    return this.#hasQueuedWork(this);
  }

  loading(): Generator<void, void> {
    return this.base.loading();
  }

  /** Frees the weights and all that was computed with them; adapters are kept by those who use them. */
  unload(): void {
    this.sampler.dispose();
    this.trainer.dispose();
    this.base.unload();
  }
}

function usable(tokenizer: Tokenizer | Error): Tokenizer {
  if (!(tokenizer instanceof Error)) return tokenizer;
  throw new EngineError(
    'user',
    `Stop strings need the model's tokenizer, which cannot be loaded: ${tokenizer.message} Use stop token ids.`,
    { cause: tokenizer },
  );
}

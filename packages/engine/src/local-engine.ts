/** The engine in this thread: base models, models in training, samplers, and the scheduler that runs them. */

import { backendInfo, type Profile, startProfile, stopProfile, tf } from '@anneal/tensorflow';
import type { Tokenizer } from '@anneal/tokenizer';
import { loadTokenizer } from '@anneal/tokenizer/node';
import {
  readAdapter,
  readCheckpointInfo,
  readOptimizer,
  writeCheckpoint,
} from './checkpoints/checkpoint-files.ts';
import {
  type AdamParams,
  type BaseModelInfo,
  type CreateModelRequest,
  EngineError,
  type EngineStatus,
  type ForwardBackwardRequest,
  type ForwardBackwardResult,
  type LoadCheckpointRequest,
  type LoraSpec,
  type OptimStepResult,
  type ProfilingEngine,
  type SampleOptions,
  type SampleRequest,
  type SampleResult,
  type SamplerSource,
  type SaveCheckpointRequest,
} from './engine.ts';
import { LoraAdapter } from './lora/adapter.ts';
import { loadLossModule } from './losses/load-loss.ts';
import { BaseModel } from './models/base-model.ts';
import type { Precision } from './models/weight-source.ts';
import { Sampler } from './sampling/sampler.ts';
import { type Joinable, Scheduler, type TrainingWork } from './scheduler.ts';
import { Trainer } from './training/trainer.ts';
import { TrainingModel } from './training/training-model.ts';
import { visionInfo } from './vision/image-spans.ts';

export interface EngineOptions {
  /** Models by the name they are served under; several names may share a folder, which is loaded once. */
  models: { name: string; folder: string }[];
  precision: Precision;
  /** Modules that export further losses. */
  lossModules?: string[];
  /** Bytes of activations that one training pass may keep. */
  activationBudgetBytes?: number;
  /** Bytes that keys and values of running samples may take, per base model. */
  kvBudgetBytes?: number;
  /** Bytes that keys and values of earlier prompts may take, per base model. */
  prefixBudgetBytes?: number;
  /** Sequences that decode together at most. */
  maxSlots?: number;
}

/** A loaded folder and what works on it. */
interface Served {
  base: BaseModel;
  trainer: Trainer;
  sampler: Sampler;
}

interface OpenSampler {
  served: Served;
  adapter: LoraAdapter | undefined;
}

const GIB = 2 ** 30;

export class LocalEngine implements ProfilingEngine {
  readonly #served = new Map<string, Served>();
  readonly #models = new Map<string, TrainingModel>();
  readonly #samplers = new Map<string, OpenSampler>();
  readonly #scheduler = new Scheduler(() =>
    [...new Set(this.#served.values())].map(({ sampler }) => sampler),
  );
  readonly #precision: Precision;
  #trainedTokens = 0;
  #closed = false;

  private constructor(precision: Precision) {
    this.#precision = precision;
  }

  /** Loads the models. TensorFlow must have been loaded in this thread. */
  static async create(options: EngineOptions): Promise<LocalEngine> {
    const engine = new LocalEngine(options.precision);
    for (const path of options.lossModules ?? []) await loadLossModule(path);
    const byFolder = new Map<string, Served>();
    for (const { name, folder } of options.models) {
      const served = byFolder.get(folder) ?? (await serve(folder, options));
      byFolder.set(folder, served);
      engine.#served.set(name, served);
    }
    return engine;
  }

  async baseModels(): Promise<BaseModelInfo[]> {
    return [...this.#served].map(([name, { base }]) => ({
      name,
      folder: base.folder,
      arch: base.config.modelType,
      maxContextLength: base.config.maxContextLength,
      vocabSize: base.config.vocabSize,
      hiddenSize: base.config.hiddenSize,
      numLayers: base.config.numLayers,
      eosTokenIds: base.config.eosTokenIds,
      vision: visionInfo(base),
    }));
  }

  async status(): Promise<EngineStatus> {
    const { tensorflowVersion, gpu } = backendInfo();
    const samplers = [...new Set(this.#served.values())].map(({ sampler }) => sampler);
    const total = (read: (sampler: Sampler) => number) =>
      samplers.reduce((sum, sampler) => sum + read(sampler), 0);
    return {
      backend: `tensorflow ${tensorflowVersion}`,
      device: gpu ? 'gpu' : 'cpu',
      precision: this.#precision,
      models: [...this.#models].map(([modelId, model]) => ({
        modelId,
        baseModel: model.baseModel,
        rank: model.adapter.spec.rank,
        step: model.optimizer.step,
      })),
      samplers: this.#samplers.size,
      queuedTraining: this.#scheduler.queuedTraining,
      activeSequences: total((sampler) => sampler.activeSequences),
      waitingSequences: total((sampler) => sampler.waitingSequences),
      kvCache: {
        bytes: total(({ cacheUse }) => cacheUse.bytes),
        limitBytes: total(({ cacheUse }) => cacheUse.limitBytes),
        tokens: total(({ cacheUse }) => cacheUse.tokens),
        prefixBytes: total(({ cacheUse }) => cacheUse.prefixBytes),
        prefixLimitBytes: total(({ cacheUse }) => cacheUse.prefixLimitBytes),
      },
      numTensors: tf.memory().numTensors,
      rssBytes: process.memoryUsage.rss(),
      trainedTokens: this.#trainedTokens,
      sampledTokens: total((sampler) => sampler.sampledTokens),
    };
  }

  createModel({ modelId, baseModel, lora }: CreateModelRequest): Promise<void> {
    return this.#train(modelId, () => {
      const { base, trainer } = this.#find(baseModel);
      if (this.#models.has(modelId)) throw new EngineError('user', `A model "${modelId}" is there already.`);
      this.#models.set(modelId, new TrainingModel(baseModel, trainer, LoraAdapter.create(base, lora)));
    });
  }

  loadCheckpoint({
    modelId,
    dir,
    baseModel,
    withOptimizer,
  }: LoadCheckpointRequest): Promise<{ baseModel: string; lora: LoraSpec; step: number }> {
    return this.#train(modelId, () => {
      const info = readCheckpointInfo(dir);
      const name = baseModel ?? info.baseModel;
      const { base, trainer } = this.#find(name);
      const adapter = readAdapter(dir, base, info.lora);
      const optimizer = withOptimizer ? readOptimizer(dir, adapter, info.step) : undefined;
      this.#models.get(modelId)?.dispose();
      this.#models.set(modelId, new TrainingModel(name, trainer, adapter, optimizer));
      return { baseModel: name, lora: info.lora, step: optimizer?.step ?? 0 };
    });
  }

  unloadModel(modelId: string): Promise<void> {
    return this.#train(modelId, () => {
      this.#model(modelId).dispose();
      this.#models.delete(modelId);
    });
  }

  forwardBackward(request: ForwardBackwardRequest): Promise<ForwardBackwardResult> {
    const size = request.data.reduce((sum, { tokens }) => sum + tokens.length, 0);
    return this.#train(
      request.modelId,
      () => {
        this.#trainedTokens += size;
        return this.#model(request.modelId).forwardBackward(request);
      },
      this.#joinable(request, size),
    );
  }

  /** Calls with one loss on one base model run together; where layers have experts, only those of one adapter. */
  #joinable(
    request: ForwardBackwardRequest,
    size: number,
  ): Joinable<ForwardBackwardRequest, ForwardBackwardResult> | undefined {
    const { modelId, lossFn, lossFnConfig, forwardOnly } = request;
    const model = this.#models.get(modelId);
    if (!model) return undefined;
    const { base } = this.#find(model.baseModel);
    const scope = base.architecture.hasExperts ? modelId : base.folder;
    return {
      kind: JSON.stringify([scope, lossFn, lossFnConfig, forwardOnly]),
      size,
      item: request,
      run: (requests) => this.#runTogether(requests),
    };
  }

  *#runTogether(requests: ForwardBackwardRequest[]): Generator<void, (ForwardBackwardResult | Error)[]> {
    const results: (ForwardBackwardResult | Error)[] = requests.map(({ modelId }) => notLoaded(modelId));
    const present = requests.flatMap((request, i) => {
      const model = this.#models.get(request.modelId);
      return model ? [{ model, request, i }] : [];
    });
    // A model may have moved to another base model since its call was queued.
    for (const trainer of new Set(present.map(({ model }) => model.trainer))) {
      const group = present.filter(({ model }) => model.trainer === trainer);
      const done = yield* trainer.stepsTogether(
        group.map(({ model, request }) => ({ adapter: model.adapter, request })),
      );
      group.forEach(({ model, request, i }, at) => {
        const result = done[at]!;
        results[i] = result instanceof Error ? result : model.add(result);
        this.#trainedTokens += request.data.reduce((sum, { tokens }) => sum + tokens.length, 0);
      });
    }
    return results;
  }

  optimStep(modelId: string, params: AdamParams): Promise<OptimStepResult> {
    return this.#train(modelId, () => this.#model(modelId).optimStep(params));
  }

  saveCheckpoint({ modelId, dir, kind }: SaveCheckpointRequest): Promise<void> {
    return this.#train(modelId, async () => {
      const model = this.#model(modelId);
      await writeCheckpoint(
        dir,
        model.baseModel,
        model.adapter,
        kind === 'training' ? model.optimizer : undefined,
      );
    });
  }

  async openSampler(samplerId: string, source: SamplerSource): Promise<void> {
    this.#refuseIfClosed();
    if (source.kind === 'model') {
      const { modelId } = source;
      await this.#train(modelId, () => {
        const model = this.#model(modelId);
        this.#samplers.set(samplerId, {
          served: this.#find(model.baseModel),
          adapter: model.adapter.snapshot(),
        });
      });
    } else if (source.kind === 'base') {
      this.#samplers.set(samplerId, { served: this.#find(source.baseModel), adapter: undefined });
    } else {
      const info = readCheckpointInfo(source.dir);
      const served = this.#find(source.baseModel ?? info.baseModel);
      this.#samplers.set(samplerId, { served, adapter: readAdapter(source.dir, served.base, info.lora) });
    }
  }

  async closeSampler(samplerId: string): Promise<void> {
    const sampler = this.#samplers.get(samplerId);
    if (!sampler) return;
    this.#samplers.delete(samplerId);
    await sampler.served.sampler.whenUnused(sampler.adapter);
    sampler.adapter?.dispose();
  }

  async sample(request: SampleRequest, options: SampleOptions = {}): Promise<SampleResult> {
    this.#refuseIfClosed();
    const sampler = this.#samplers.get(request.samplerId);
    if (!sampler)
      throw new EngineError(
        'user',
        `Sampler "${request.samplerId}" does not exist: it was closed, or the server has restarted.`,
      );
    const result = sampler.served.sampler.submit(request, sampler.adapter, options);
    this.#scheduler.wake();
    return result;
  }

  async startProfile(): Promise<void> {
    startProfile();
  }

  async stopProfile(): Promise<Profile> {
    return stopProfile();
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#scheduler.drain();
    for (const model of this.#models.values()) model.dispose();
    for (const { adapter } of this.#samplers.values()) adapter?.dispose();
    for (const { base, trainer, sampler } of new Set(this.#served.values())) {
      sampler.dispose();
      trainer.dispose();
      base.dispose();
    }
  }

  #train<T, I>(modelId: string, work: TrainingWork<T>, joinable?: Joinable<I, T>): Promise<T> {
    this.#refuseIfClosed();
    return this.#scheduler.enqueue(modelId, work, joinable);
  }

  #refuseIfClosed(): void {
    if (this.#closed) throw new EngineError('server', 'The engine is shutting down.');
  }

  #model(modelId: string): TrainingModel {
    const model = this.#models.get(modelId);
    if (model) return model;
    throw notLoaded(modelId);
  }

  #find(baseModel: string): Served {
    const served = this.#served.get(baseModel);
    if (served) return served;
    throw new EngineError(
      'user',
      `base_model "${baseModel}" is not served here; served: ${[...this.#served.keys()].join(', ')}.`,
    );
  }
}

function notLoaded(modelId: string): EngineError {
  return new EngineError(
    'user',
    `Model "${modelId}" is not loaded: it was unloaded, or its creation failed.`,
  );
}

async function serve(folder: string, options: EngineOptions): Promise<Served> {
  const base = BaseModel.load(folder, options.precision);
  const trainer = new Trainer(base, { activationBudgetBytes: options.activationBudgetBytes ?? 1.5 * GIB });
  const tokenizer = await loadTokenizer(folder).catch((error: Error) => error);
  const sampler = new Sampler(base, trainer.head, {
    maxSlots: options.maxSlots ?? 64,
    kvBudgetBytes: options.kvBudgetBytes ?? 2 * GIB,
    ...(options.prefixBudgetBytes === undefined ? {} : { prefixBudgetBytes: options.prefixBudgetBytes }),
    // A second's work on two cores: what others wait for at most.
    prefillTokens: 1024,
    // Measured on CPU in fp32: a fused decode layer is 15 to 25 % faster, and compiles in under a second per shape.
    xla: true,
    tokenizer: () => usable(tokenizer),
  });
  return { base, trainer, sampler };
}

function usable(tokenizer: Tokenizer | Error): Tokenizer {
  if (!(tokenizer instanceof Error)) return tokenizer;
  throw new EngineError(
    'user',
    `Stop strings need the model's tokenizer, which cannot be loaded: ${tokenizer.message} Use stop token ids.`,
    { cause: tokenizer },
  );
}

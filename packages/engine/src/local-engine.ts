/** The engine in this thread: base models, models in training, samplers, and the scheduler that runs them. */

import { backendInfo, type Profile, startProfile, stopProfile, tf } from '@anneal/tensorflow';
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
import type { Precision } from './models/weight-source.ts';
import { OpenSamplers } from './open-samplers.ts';
import { Residency } from './residency.ts';
import type { Sampler } from './sampling/sampler.ts';
import { type CallOptions, type Joinable, Scheduler, type TrainingWork } from './scheduler.ts';
import { ServedModel, type ServedModelOptions } from './served-model.ts';
import { TrainingModel } from './training/training-model.ts';

export interface EngineOptions extends ServedModelOptions {
  /** Models by the name they are served under; several names may share a folder, which is loaded once. */
  models: { name: string; folder: string }[];
  /** Bytes that the weights of loaded models may take together; absent: no limit. */
  modelMemoryBytes?: number;
  /** Which models are loaded before the engine is ready: the first, or as many as there is room for. Default: the first. */
  loadAtStart?: 'first' | 'all';
  /** Modules that export further losses. */
  lossModules?: string[];
}

export class LocalEngine implements ProfilingEngine {
  readonly #served = new Map<string, ServedModel>();
  readonly #models = new Map<string, TrainingModel>();
  readonly #samplers: OpenSamplers;
  readonly #scheduler = new Scheduler(() =>
    [...new Set(this.#served.values())].map(({ sampler }) => sampler),
  );
  readonly #residency: Residency;
  readonly #precision: Precision;
  #trainedTokens = 0;
  #closed = false;

  private constructor({ precision, modelMemoryBytes }: EngineOptions) {
    this.#precision = precision;
    this.#residency = new Residency(modelMemoryBytes);
    this.#samplers = new OpenSamplers(this.#residency, () => this.#scheduler.wake());
  }

  /** Opens the models, and loads the first or more of them. TensorFlow must have been loaded in this thread. */
  static async create(options: EngineOptions): Promise<LocalEngine> {
    const engine = new LocalEngine(options);
    for (const path of options.lossModules ?? []) await loadLossModule(path);
    const hasQueuedWork = (model: ServedModel) => engine.#hasQueuedWork(model);
    const byFolder = new Map<string, ServedModel>();
    for (const { name, folder } of options.models) {
      const served = byFolder.get(folder) ?? (await ServedModel.open(name, folder, options, hasQueuedWork));
      byFolder.set(folder, served);
      engine.#served.set(name, served);
    }
    const [first, ...others] = byFolder.values();
    if (first) await engine.#load(first);
    for (const served of options.loadAtStart === 'all' ? others : [])
      if (engine.#residency.hasRoomFor(served)) await engine.#load(served);
    return engine;
  }

  async #load(served: ServedModel): Promise<void> {
    const release = await this.#residency.enter(served);
    release();
  }

  async baseModels(): Promise<BaseModelInfo[]> {
    return [...this.#served].map(([name, served]) => served.info(name));
  }

  async status(): Promise<EngineStatus> {
    const { tensorflowVersion, gpu } = backendInfo();
    const served = [...new Set(this.#served.values())];
    const total = (read: (sampler: Sampler) => number) =>
      served.reduce((sum, { sampler }) => sum + read(sampler), 0);
    const { loads, unloads } = this.#residency.counts;
    return {
      backend: `tensorflow ${tensorflowVersion}`,
      device: gpu ? 'gpu' : 'cpu',
      precision: this.#precision,
      baseModels: [...this.#served].map(([name, model]) => ({ name, state: this.#residency.stateOf(model) })),
      baseWeightBytes: this.#residency.bytes,
      baseLoads: loads,
      baseUnloads: unloads,
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
    const work = () => {
      const { base, trainer } = this.#find(baseModel);
      if (this.#models.has(modelId)) throw new EngineError('user', `A model "${modelId}" is there already.`);
      this.#models.set(modelId, new TrainingModel(baseModel, trainer, LoraAdapter.create(base, lora)));
    };
    return this.#train(modelId, work, { enter: () => this.#residency.enter(this.#find(baseModel)) });
  }

  loadCheckpoint({
    modelId,
    dir,
    baseModel,
    withOptimizer,
  }: LoadCheckpointRequest): Promise<{ baseModel: string; lora: LoraSpec; step: number }> {
    const nameOf = () => baseModel ?? readCheckpointInfo(dir).baseModel;
    const work = () => {
      const info = readCheckpointInfo(dir);
      const name = nameOf();
      const { base, trainer } = this.#find(name);
      const adapter = readAdapter(dir, base, info.lora);
      const optimizer = withOptimizer ? readOptimizer(dir, adapter, info.step) : undefined;
      this.#models.get(modelId)?.dispose();
      this.#models.set(modelId, new TrainingModel(name, trainer, adapter, optimizer));
      return { baseModel: name, lora: info.lora, step: optimizer?.step ?? 0 };
    };
    return this.#train(modelId, work, { enter: () => this.#residency.enter(this.#find(nameOf())) });
  }

  unloadModel(modelId: string): Promise<void> {
    return this.#train(modelId, () => {
      this.#model(modelId).dispose();
      this.#models.delete(modelId);
    });
  }

  forwardBackward(request: ForwardBackwardRequest): Promise<ForwardBackwardResult> {
    const { modelId } = request;
    const size = request.data.reduce((sum, { tokens }) => sum + tokens.length, 0);
    const work = () => {
      this.#trainedTokens += size;
      return this.#model(modelId).forwardBackward(request);
    };
    return this.#train(modelId, work, {
      joinable: this.#joinable(request, size),
      enter: () => this.#residency.enter(this.#find(this.#model(modelId).baseModel)),
    });
  }

  /** Calls with one loss on one base model run together; where layers have experts, only those of one adapter. */
  #joinable(
    request: ForwardBackwardRequest,
    size: number,
  ): Joinable<ForwardBackwardRequest, ForwardBackwardResult> {
    const { modelId, lossFn, lossFnConfig, forwardOnly } = request;
    return {
      kind: () => {
        const model = this.#models.get(modelId);
        if (!model) return undefined;
        const { base } = this.#find(model.baseModel);
        const scope = base.architecture.hasExperts ? modelId : base.folder;
        return JSON.stringify([scope, lossFn, lossFnConfig, forwardOnly]);
      },
      size,
      item: request,
      run: (requests) => this.#runTogether(requests),
    };
  }

  *#runTogether(requests: ForwardBackwardRequest[]): Generator<void, (ForwardBackwardResult | Error)[]> {
    const calls = requests.map((request) => ({ model: this.#model(request.modelId), request }));
    const done = yield* calls[0]!.model.trainer.stepsTogether(
      calls.map(({ model, request }) => ({ adapter: model.adapter, request })),
    );
    return calls.map(({ model, request }, i) => {
      const result = done[i]!;
      this.#trainedTokens += request.data.reduce((sum, { tokens }) => sum + tokens.length, 0);
      return result instanceof Error ? result : model.add(result);
    });
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
        this.#addSampler(samplerId, this.#find(model.baseModel), model.adapter.snapshot());
      });
    } else if (source.kind === 'base') {
      const served = this.#find(source.baseModel);
      this.#residency.refuseIfTooLarge(served);
      this.#addSampler(samplerId, served, undefined);
    } else {
      const info = readCheckpointInfo(source.dir);
      const served = this.#find(source.baseModel ?? info.baseModel);
      this.#residency.refuseIfTooLarge(served);
      this.#addSampler(samplerId, served, readAdapter(source.dir, served.base, info.lora));
    }
  }

  /** The base model begins to load, if it has to: whoever opens a sampler is about to use it. */
  #addSampler(samplerId: string, served: ServedModel, adapter: LoraAdapter | undefined): void {
    this.#samplers.add(samplerId, served, adapter);
    // What goes wrong here goes wrong again for the first sample, which tells it.
    this.#load(served).catch(() => {});
  }

  closeSampler(samplerId: string): Promise<void> {
    return this.#samplers.close(samplerId);
  }

  async sample(request: SampleRequest, options: SampleOptions = {}): Promise<SampleResult> {
    this.#refuseIfClosed();
    return await this.#samplers.sample(request, options);
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
    await this.#residency.close();
    await this.#scheduler.drain();
    for (const model of this.#models.values()) model.dispose();
    this.#samplers.dispose();
    for (const served of new Set(this.#served.values())) served.unload();
  }

  async #train<T, I>(modelId: string, work: TrainingWork<T>, options?: CallOptions<T, I>): Promise<T> {
    this.#refuseIfClosed();
    try {
      return await this.#scheduler.enqueue(modelId, work, options);
    } finally {
      this.#residency.reconsider();
    }
  }

  #hasQueuedWork(served: ServedModel): boolean {
    for (const modelId of this.#scheduler.queuedModels) {
      const model = this.#models.get(modelId);
      if (model && this.#served.get(model.baseModel) === served) return true;
    }
    return false;
  }

  #refuseIfClosed(): void {
    if (this.#closed) throw new EngineError('server', 'The engine is shutting down.');
  }

  #model(modelId: string): TrainingModel {
    const model = this.#models.get(modelId);
    if (model) return model;
    throw notLoaded(modelId);
  }

  #find(baseModel: string): ServedModel {
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

/**
 * An engine without tensors for tests of everything around it: deterministic numbers, real files, the real boundary's
 * order per model. Logprobs depend on the tokens before and on the weights' version, so that a sampler that drifts or a
 * request out of order shows.
 */
import { existsSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import {
  type AdamParams,
  type BaseModelInfo,
  type CreateModelRequest,
  type Engine,
  EngineError,
  type EngineStatus,
  type ForwardBackwardRequest,
  type ForwardBackwardResult,
  type LoadCheckpointRequest,
  type LoraSpec,
  type OptimStepResult,
  type SampleOptions,
  type SampleRequest,
  type SampleResult,
  type SamplerSource,
  type SaveCheckpointRequest,
} from '@anneal/engine';
import { writeSafetensors } from '@anneal/safetensors';

interface ModelState {
  baseModel: string;
  lora: LoraSpec;
  step: number;
  /** Stands for the weights. */
  version: number;
  /** Stands for the moments. */
  momentum: number;
  gradient: number;
}

const CONTEXT = 512;
const VOCAB = 1000;
const EOS = 2;
/** Each position's number takes time that grows with the position. */
const LONGEST_DATUM = 8192;

export class FakeEngine implements Engine {
  readonly calls: string[] = [];
  readonly models = new Map<string, ModelState>();
  readonly samplers = new Map<string, { baseModel: string; version: number }>();
  readonly #tails = new Map<string, Promise<unknown>>();
  readonly #names: string[];
  /** Awaited by each training call before it runs. */
  gate: Promise<void> = Promise.resolve();
  /** Awaited by each sample. */
  sampleGate: Promise<void> = Promise.resolve();
  /** Added to the metrics of each pass. */
  extraMetrics: Record<string, number> = {};
  closed = false;
  trainedTokens = 0;
  sampledTokens = 0;
  /** Calls that were made, run or not. */
  received = 0;
  /** The latest request of each kind. */
  last: { pass?: ForwardBackwardRequest; adam?: AdamParams; sample?: SampleRequest } = {};

  constructor(names: string[] = ['tiny']) {
    this.#names = names;
  }

  async baseModels(): Promise<BaseModelInfo[]> {
    return this.#names.map((name) => ({
      name,
      folder: '/models/tiny',
      arch: 'llama',
      maxContextLength: CONTEXT,
      vocabSize: VOCAB,
      hiddenSize: 64,
      numLayers: 2,
      eosTokenIds: [EOS],
      weightBytes: 1000,
    }));
  }

  async status(): Promise<EngineStatus> {
    return {
      backend: 'fake',
      device: 'none',
      precision: 'fp32',
      baseModels: this.#names.map((name) => ({ name, state: 'loaded' })),
      baseWeightBytes: 1000,
      baseLoads: 1,
      baseUnloads: 0,
      models: [...this.models].map(([modelId, { baseModel, lora, step }]) => ({
        modelId,
        baseModel,
        rank: lora.rank,
        step,
      })),
      samplers: this.samplers.size,
      queuedTraining: 0,
      activeSequences: 0,
      waitingSequences: 0,
      kvCache: { bytes: 640, limitBytes: 1000, tokens: 5, prefixBytes: 64, prefixLimitBytes: 100 },
      numTensors: 0,
      rssBytes: 0,
      trainedTokens: this.trainedTokens,
      sampledTokens: this.sampledTokens,
    };
  }

  createModel({ modelId, baseModel, lora }: CreateModelRequest): Promise<void> {
    return this.#inOrder(modelId, 'createModel', async () => {
      if (lora.rank > 64) throw new EngineError('user', `lora_config.rank ${lora.rank} is more than 64`);
      this.models.set(modelId, { baseModel, lora, step: 0, version: 0, momentum: 0, gradient: 0 });
    });
  }

  loadCheckpoint(
    request: LoadCheckpointRequest,
  ): Promise<{ baseModel: string; lora: LoraSpec; step: number }> {
    return this.#inOrder(request.modelId, 'loadCheckpoint', async () => {
      const { baseModel, lora, ...saved } = await readState(request.dir);
      const kept = request.withOptimizer ? saved : { ...saved, momentum: 0, step: 0 };
      const state = { ...kept, baseModel: request.baseModel ?? baseModel, lora, gradient: 0 };
      this.models.set(request.modelId, state);
      return { baseModel: state.baseModel, lora, step: state.step };
    });
  }

  unloadModel(modelId: string): Promise<void> {
    return this.#inOrder(modelId, 'unloadModel', async () => void this.models.delete(modelId));
  }

  forwardBackward(request: ForwardBackwardRequest): Promise<ForwardBackwardResult> {
    const { modelId, data, lossFn, forwardOnly } = request;
    this.last.pass = request;
    return this.#inOrder(modelId, forwardOnly ? 'forward' : 'forwardBackward', async () => {
      const state = this.#model(modelId);
      if (lossFn !== 'cross_entropy') {
        throw new EngineError('user', `loss_fn "${lossFn}" is unknown; use cross_entropy`);
      }
      const long = data.find(({ tokens }) => tokens.length > LONGEST_DATUM);
      if (long) throw new EngineError('user', `a datum of ${long.tokens.length} tokens is too long`);
      const outputs = data.map((datum, index) => {
        const targets = datum.inputs.target_tokens;
        if (!targets) throw new EngineError('user', `data[${index}]: target_tokens is missing`);
        if (targets.data.length !== datum.tokens.length) {
          throw new EngineError('user', `data[${index}]: target_tokens has ${targets.data.length} rows`);
        }
        const logprobs = Float32Array.from(targets.data as ArrayLike<number | bigint>, (token, position) =>
          logprob(datum.tokens.subarray(0, position + 1), Number(token), state.version),
        );
        return { logprobs: { dtype: 'float32' as const, shape: [logprobs.length], data: logprobs } };
      });
      const loss = -outputs.reduce((sum, { logprobs }) => sum + total(logprobs.data), 0);
      if (!forwardOnly) {
        state.gradient += loss;
        this.trainedTokens += data.reduce((sum, { tokens }) => sum + tokens.length, 0);
      }
      return { outputs, metrics: { 'loss:sum': loss, ...this.extraMetrics } };
    });
  }

  optimStep(modelId: string, params: AdamParams): Promise<OptimStepResult> {
    this.last.adam = params;
    return this.#inOrder(modelId, 'optimStep', async () => {
      const state = this.#model(modelId);
      const norm = Math.abs(state.gradient);
      state.momentum = params.beta1 * state.momentum + (1 - params.beta1) * state.gradient;
      state.version += params.learningRate * state.momentum;
      state.gradient = 0;
      state.step += 1;
      return { metrics: { 'grad_norm:l2': norm } };
    });
  }

  saveCheckpoint({ modelId, dir, kind }: SaveCheckpointRequest): Promise<void> {
    return this.#inOrder(modelId, `saveCheckpoint:${kind}`, async () => {
      const state = this.#model(modelId);
      await writeState(dir, state);
      if (kind === 'training') await writeFile(join(dir, 'optimizer.json'), JSON.stringify(state.momentum));
    });
  }

  async openSampler(samplerId: string, source: SamplerSource): Promise<void> {
    this.calls.push(`openSampler:${source.kind}`);
    if (source.kind === 'base') {
      this.samplers.set(samplerId, { baseModel: source.baseModel, version: 0 });
      return;
    }
    if (source.kind === 'checkpoint') {
      const { baseModel, version } = await readState(source.dir);
      this.samplers.set(samplerId, { baseModel, version });
      return;
    }
    await this.#inOrder(source.modelId, 'openSampler', async () => {
      const { baseModel, version } = this.#model(source.modelId);
      this.samplers.set(samplerId, { baseModel, version });
    });
  }

  async closeSampler(samplerId: string): Promise<void> {
    this.samplers.delete(samplerId);
  }

  async sample(request: SampleRequest, options?: SampleOptions): Promise<SampleResult> {
    this.calls.push('sample');
    this.last.sample = request;
    await Promise.race([this.sampleGate, aborted(options?.signal)]);
    if (options?.signal?.aborted) throw new EngineError('user', 'The sample was cancelled');
    const sampler = this.samplers.get(request.samplerId);
    if (!sampler) throw new EngineError('server', `sampler "${request.samplerId}" is not open`);
    const bad = request.prompt.find((token) => token >= VOCAB);
    if (bad !== undefined) throw new EngineError('user', `prompt: token ${bad} is not below ${VOCAB}`);
    const result = sampleFrom(request, sampler.version);
    this.sampledTokens += result.sequences.reduce((sum, { tokens }) => sum + tokens.length, 0);
    return result;
  }

  async close(): Promise<void> {
    this.closed = true;
    await Promise.allSettled(this.#tails.values());
  }

  #model(modelId: string): ModelState {
    const state = this.models.get(modelId);
    if (!state) throw new EngineError('server', `model "${modelId}" is not loaded`);
    return state;
  }

  #inOrder<T>(modelId: string, name: string, work: () => Promise<T>): Promise<T> {
    this.received += 1;
    const before = this.#tails.get(modelId) ?? Promise.resolve();
    const result = before
      .catch(() => {})
      .then(async () => {
        await this.gate;
        this.calls.push(name);
        return await work();
      });
    this.#tails.set(modelId, result);
    result.catch(() => {});
    return result;
  }
}

/** Below 0, and another one for each token, version and last tokens of the prefix. */
export function logprob(prefix: Int32Array, token: number, version: number): number {
  let hash = token + 1;
  for (const id of prefix.subarray(-8)) hash = (hash * 31 + id) % 9973;
  return -(0.1 + hash / 9973 + Math.abs(version) / 1000);
}

function sampleFrom(request: SampleRequest, version: number): SampleResult {
  const { prompt, numSamples, params } = request;
  const length = Math.min(params.maxTokens ?? 16, CONTEXT - prompt.length);
  const sequences = Array.from({ length: numSamples }, (_, index) => {
    const tokens: number[] = [];
    let stopped = false;
    while (tokens.length < length && !stopped) {
      const token = draw(prompt, tokens.length, params.seed, params.temperature, index);
      tokens.push(token);
      stopped = (params.stop?.tokenIds ?? [EOS]).includes(token);
    }
    const all = Int32Array.from([...prompt, ...tokens]);
    const logprobs = tokens.map((token, at) => logprob(all.subarray(0, prompt.length + at), token, version));
    return {
      stopReason: stopped ? ('stop' as const) : ('length' as const),
      tokens: Int32Array.from(tokens),
      logprobs: Float32Array.from(logprobs),
    };
  });
  return {
    sequences,
    promptCacheHitTokens: 0,
    ...(request.promptLogprobs ? { promptLogprobs: scorePrompt(request, version) } : {}),
    ...(request.targetPromptLogprobs
      ? {
          targetPromptLogprobs: Float32Array.from(request.targetPromptLogprobs.data, (id) =>
            id < 0 ? 0 : -id,
          ),
        }
      : {}),
    ...(request.topkPromptLogprobs > 0
      ? { topkPromptLogprobs: topk(prompt.length, request.topkPromptLogprobs) }
      : {}),
    ...(request.promptAltTokensK > 0
      ? { promptAltTokens: alternatives(prompt.length, request.promptAltTokensK) }
      : {}),
  };
}

function draw(
  prompt: Int32Array,
  at: number,
  seed: bigint | undefined,
  temperature: number,
  index: number,
): number {
  const random = temperature === 0 ? 0 : Number((seed ?? 0n) % 997n) * 7 + index * 13;
  return 3 + ((total(prompt) + at * 17 + random) % (VOCAB - 3));
}

function scorePrompt({ prompt, promptLogprobsLastN }: SampleRequest, version: number): Float32Array {
  const first = promptLogprobsLastN === undefined ? 1 : Math.max(prompt.length - promptLogprobsLastN, 1);
  return Float32Array.from(prompt, (token, at) =>
    at < first ? Number.NaN : logprob(prompt.subarray(0, at), token, version),
  );
}

function topk(length: number, k: number) {
  const tokenIds = new Int32Array(length * k);
  const logprobs = new Float32Array(length * k).fill(-99999);
  for (let cell = k; cell < length * k; cell += 1) {
    tokenIds[cell] = 3 + (cell % k);
    logprobs[cell] = -1 - (cell % k);
  }
  return { k, length, tokenIds, logprobs };
}

function alternatives(length: number, k: number) {
  const cells = (length - 1) * k;
  return { k, tokens: new Int32Array(cells).fill(5), logprobs: new Float32Array(cells).fill(-1) };
}

async function writeState(dir: string, state: ModelState): Promise<void> {
  const { lora, version, momentum } = state;
  const head = lora.trainUnembed ? 'lm_head' : 'model.layers.0.self_attn.q_proj';
  const tensors = ['lora_A', 'lora_B'].map((part) => ({
    name: `base_model.model.${head}.${part}.weight`,
    dtype: 'F32' as const,
    shape: part === 'lora_A' ? [lora.rank, 8] : [8, lora.rank],
    data: new Float32Array(lora.rank * 8).fill(version),
  }));
  await writeSafetensors(join(dir, 'adapter_model.safetensors'), tensors, { format: 'pt' });
  const config = {
    peft_type: 'LORA',
    r: lora.rank,
    lora_alpha: lora.alpha,
    target_modules: [head.split('.').at(-1)],
  };
  await writeFile(join(dir, 'adapter_config.json'), JSON.stringify(config));
  const saved = { ...state, lora: { ...lora, seed: lora.seed?.toString() }, momentum };
  await writeFile(join(dir, 'fake-state.json'), JSON.stringify(saved));
}

async function readState(dir: string): Promise<ModelState> {
  const path = join(dir, 'fake-state.json');
  if (!existsSync(path)) throw new EngineError('user', `${dir} holds no checkpoint`);
  const { lora, ...state } = JSON.parse(await readFile(path, 'utf8'));
  const { seed, ...rest } = lora;
  return { ...state, lora: seed === undefined ? rest : { ...rest, seed: BigInt(seed) } };
}

function total(values: ArrayLike<number>): number {
  return Array.from(values).reduce((sum, value) => sum + value, 0);
}

function aborted(signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted) resolve();
    else signal?.addEventListener('abort', () => resolve(), { once: true });
  });
}

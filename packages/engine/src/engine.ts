/**
 * The one boundary between the server and the machine that computes: no HTTP, no SQL and no users on this side, no
 * tensors on the other. A worker thread implements it today; a worker on another machine would implement the same.
 *
 * Order: calls that name the same `modelId` run in the order in which they were made. Calls of different models, and
 * samples, run in any order and may share a batch. Every method rejects with an {@link EngineError}.
 */

import type { Profile } from '@anneal/tensorflow';
import type { ImageSizing } from './vision/image-processor.ts';
import type { RgbImage } from './vision/resize.ts';

/** Whose mistake an error is: `user` errors are shown to the caller, `server` errors are ours. */
export type ErrorCategory = 'user' | 'server';

/** The only error that leaves the engine. The message names the field and the value, and says what to do. */
export class EngineError extends Error {
  override readonly name = 'EngineError';
  readonly category: ErrorCategory;

  constructor(category: ErrorCategory, message: string, options?: ErrorOptions) {
    super(message, options);
    this.category = category;
  }
}

/** A base model that the engine serves, loaded or not: one entry per name under which it is served. */
export interface BaseModelInfo {
  /** The name that users pass as `base_model`. */
  name: string;
  /** Checkpoint folder: config.json, safetensors, tokenizer files. */
  folder: string;
  /** `model_type` of config.json, for example `llama`. */
  arch: string;
  maxContextLength: number;
  vocabSize: number;
  hiddenSize: number;
  numLayers: number;
  /** Token ids that end a text when the request lists no stops of its own. */
  eosTokenIds: number[];
  /** Memory that its weights take when they are loaded. */
  weightBytes: number;
  /** How it reads images; absent: it reads text only. */
  vision?: VisionInfo;
}

/** What a caller needs to lay images into sequences. */
export interface VisionInfo extends ImageSizing {
  /** The token id that stands for each of an image's tokens. */
  imageTokenId: number;
}

/** What a LoRA adapter covers. Scale is `alpha / rank` (TINKER-API section 12). */
export interface LoraSpec {
  rank: number;
  alpha: number;
  /** Same seed and shape give the same A; absent means random. */
  seed?: bigint;
  trainAttn: boolean;
  trainMlp: boolean;
  trainUnembed: boolean;
  /** Experts share one A of their gate and up maps and one B of their down maps; absent: each has its own. */
  shareExperts?: boolean;
  /** Maps that a family fuses, such as linear attention's queries, keys and values, have an adapter for each part; absent: one. */
  splitFused?: boolean;
}

export type TensorValues = Float32Array | Int32Array | BigInt64Array;

/** Dense values that cross the boundary, row-major. */
export interface HostTensor {
  dtype: 'float32' | 'int32' | 'int64';
  shape: number[];
  data: TensorValues;
}

/** An image in a sequence, decoded. As many tokens stand for it as {@link imageTokens} says, all of the model's image id. */
export interface EngineImage extends RgbImage {
  /** Index of its first token. */
  at: number;
}

/** One training example: input tokens and the loss's named inputs, each with one row per token. */
export interface EngineDatum {
  tokens: Int32Array;
  /** In the order of their places. */
  images?: EngineImage[];
  inputs: Record<string, HostTensor>;
}

export interface ForwardBackwardRequest {
  modelId: string;
  data: EngineDatum[];
  lossFn: string;
  lossFnConfig: Record<string, number | string>;
  /** Loss and outputs only; leaves the accumulated gradient alone. */
  forwardOnly: boolean;
}

export interface ForwardBackwardResult {
  /** One record per datum, in request order; `logprobs` [T] or [T, K] is always there. */
  outputs: Record<string, HostTensor>[];
  /** Keys carry the SDK's reduction suffix (`loss:sum`, `kl:mean`). */
  metrics: Record<string, number>;
}

export interface AdamParams {
  learningRate: number;
  beta1: number;
  beta2: number;
  eps: number;
  /** Decoupled: parameters shrink by `learningRate * weightDecay` before the Adam update. */
  weightDecay: number;
  /** Largest global L2 norm of the gradient; 0 turns clipping off. */
  gradClipNorm: number;
}

export interface OptimStepResult {
  metrics: Record<string, number>;
}

export interface CreateModelRequest {
  modelId: string;
  baseModel: string;
  lora: LoraSpec;
}

export interface LoadCheckpointRequest {
  modelId: string;
  /** Folder written by {@link Engine.saveCheckpoint}. */
  dir: string;
  /** Base model name; the checkpoint's own when absent. */
  baseModel?: string;
  /** Restore Adam moments and step count too; otherwise the optimizer starts fresh. */
  withOptimizer: boolean;
}

export interface SaveCheckpointRequest {
  modelId: string;
  /** Existing empty folder. */
  dir: string;
  /** `sampler`: adapter only. `training`: also optimizer moments and step. */
  kind: 'training' | 'sampler';
}

export interface SamplingParams {
  /** Absent: up to the context limit. */
  maxTokens?: number;
  /** 0 is greedy. */
  temperature: number;
  /** -1 is off. */
  topK: number;
  topP: number;
  seed?: bigint;
  /** Absent: the model's end-of-text ids. Empty lists: nothing stops. With strings, end-of-text stops too. */
  stop?: { tokenIds: number[]; strings: string[] };
}

export interface SampleRequest {
  samplerId: string;
  prompt: Int32Array;
  /** In the order of their places. */
  images?: EngineImage[];
  numSamples: number;
  params: SamplingParams;
  promptLogprobs: boolean;
  /** 0 is off. */
  topkPromptLogprobs: number;
  /** 0 is off. */
  topkSampleLogprobs: number;
  /** Only the last N prompt positions are scored; earlier ones are NaN. */
  promptLogprobsLastN?: number;
  /** Ids [P-1, K] to score at each next position; -1 skips a cell. */
  targetPromptLogprobs?: { shape: [number, number]; data: Int32Array };
  /** Independent draws per prompt position; 0 is off. */
  promptAltTokensK: number;
}

/** Rows of (token id, logprob), best first; unused cells hold id 0 and -99999. */
export interface TopkLogprobs {
  k: number;
  length: number;
  tokenIds: Int32Array;
  logprobs: Float32Array;
}

export interface SampledSequence {
  stopReason: 'stop' | 'length';
  /** The token that stopped the text is included. */
  tokens: Int32Array;
  /** Of the untempered, untruncated distribution. */
  logprobs: Float32Array;
  topk?: TopkLogprobs;
}

export interface SampleResult {
  sequences: SampledSequence[];
  /** One per prompt token, NaN where not computed (always at 0). */
  promptLogprobs?: Float32Array;
  topkPromptLogprobs?: TopkLogprobs;
  /** Layout of the request. */
  targetPromptLogprobs?: Float32Array;
  /** [P-1, k] */
  promptAltTokens?: { k: number; tokens: Int32Array; logprobs: Float32Array };
  promptCacheHitTokens: number;
}

/** A chunk of one sequence, as it is sampled. */
export interface SampleProgress {
  sequence: number;
  tokens: Int32Array;
  logprobs: Float32Array;
}

export interface SampleOptions {
  signal?: AbortSignal;
  /** Called as tokens are drawn; the final result still holds all of them. */
  onProgress?: (progress: SampleProgress) => void;
}

/** What keys and values, and states, take in memory. */
export interface CacheUse {
  /** Of running sequences, room for their growth included. */
  bytes: number;
  /** The most that admission lets those take. */
  limitBytes: number;
  /** Positions of running sequences. */
  tokens: number;
  /** Of earlier prompts and conversations, kept for those that begin alike. */
  prefixBytes: number;
  prefixLimitBytes: number;
}

export interface EngineStatus {
  backend: string;
  device: string;
  precision: 'auto' | 'fp32' | 'bf16' | 'int8';
  /** Of each served name, whether the weights are in memory. */
  baseModels: { name: string; state: 'unloaded' | 'loading' | 'loaded' }[];
  /** Memory of the base weights that are loaded. */
  baseWeightBytes: number;
  /** How many times base weights were loaded and unloaded. */
  baseLoads: number;
  baseUnloads: number;
  models: { modelId: string; baseModel: string; rank: number; step: number }[];
  samplers: number;
  queuedTraining: number;
  activeSequences: number;
  waitingSequences: number;
  /** Of all base models together. */
  kvCache: CacheUse;
  numTensors: number;
  rssBytes: number;
  trainedTokens: number;
  sampledTokens: number;
}

export interface Engine {
  /** Base models under all their served names. */
  baseModels(): Promise<BaseModelInfo[]>;
  status(): Promise<EngineStatus>;

  createModel(request: CreateModelRequest): Promise<void>;
  /** Creates the model, or replaces the state of a live one; drops its pending gradient. */
  loadCheckpoint(
    request: LoadCheckpointRequest,
  ): Promise<{ baseModel: string; lora: LoraSpec; step: number }>;
  unloadModel(modelId: string): Promise<void>;
  forwardBackward(request: ForwardBackwardRequest): Promise<ForwardBackwardResult>;
  optimStep(modelId: string, params: AdamParams): Promise<OptimStepResult>;
  /** Writes the files and syncs them; naming and listing the folder is the caller's business. */
  saveCheckpoint(request: SaveCheckpointRequest): Promise<void>;

  /** A frozen sampler: of a base model, of a checkpoint folder, or of a live model's weights right now. */
  openSampler(samplerId: string, source: SamplerSource): Promise<void>;
  closeSampler(samplerId: string): Promise<void>;
  sample(request: SampleRequest, options?: SampleOptions): Promise<SampleResult>;

  /** Finishes what runs, refuses what comes, frees the device. */
  close(): Promise<void>;
}

/** An engine that can say what it spends its time on. */
export interface ProfilingEngine extends Engine {
  /** Begins to record; what was recorded before is thrown away. */
  startProfile(): Promise<void>;
  stopProfile(): Promise<Profile>;
}

export type SamplerSource =
  | { kind: 'base'; baseModel: string }
  | { kind: 'checkpoint'; dir: string; baseModel?: string }
  /** Ordered with the model's other calls, so the snapshot holds exactly the steps before it. */
  | { kind: 'model'; modelId: string };

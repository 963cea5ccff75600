/**
 * What one family of models is to the engine. A family is one file that exports an {@link Architecture}; the registry
 * lists them. Everything here is pure: tensors in, tensors out, so that it can be compiled for training and decoding alike.
 */
import type { Tensor } from '@anneal/tensorflow';
import type { AttendFn } from '../layers/attention.ts';
import type { LoraTensors } from '../layers/linear.ts';
import type { RecurrentState } from '../layers/recurrent-state.ts';
import type { RopeConfig, RopeTensors } from '../layers/rotary.ts';
import type { VisionConfig } from '../vision/vision-config.ts';
import type { WeightSource } from './weight-source.ts';

/** The numbers that the engine needs of any decoder; families add their own. */
export interface DecoderConfig {
  modelType: string;
  vocabSize: number;
  hiddenSize: number;
  numLayers: number;
  numHeads: number;
  numKvHeads: number;
  headDim: number;
  maxContextLength: number;
  normEps: number;
  tieWordEmbeddings: boolean;
  eosTokenIds: number[];
  rope: RopeConfig;
  /** What queries are multiplied by before they meet keys. */
  attentionScale: number;
  /** What embeddings are multiplied by on entry; their use as the head is not. */
  embedScale: number;
  /** Of models that read images, whose rope then has sections. */
  vision?: VisionConfig;
}

/** What may differ from layer to layer about attention. */
export interface LayerAttention {
  rope: RopeConfig;
  /** Positions that a query sees, its own included; absent: all up to its own. */
  window?: number;
}

export type LoraGroup = 'attn' | 'mlp' | 'unembed';

/** A linear map that LoRA may adapt. */
export interface LoraModule {
  /** The key under which a layer looks its adapter up, for example `q`. */
  key: string;
  /** The checkpoint's name of the weight without `.weight`; also PEFT's module path. */
  path: string;
  group: LoraGroup;
  inFeatures: number;
  outFeatures: number;
  /** For a map that every expert has; the path is then that of all of them. */
  experts?: ExpertsInfo;
  /** For a map that is adapted as a whole or, in adapters with `splitFused`, row block by row block. */
  form?: 'fused' | 'split';
}

export interface ExpertsInfo {
  count: number;
  /** Experts that compute a token. */
  perToken: number;
  /** The side that is one matrix for all experts in adapters that share. */
  shared: 'a' | 'b';
  layout: ExpertLayout;
}

/**
 * How transformers holds experts, which PEFT's names follow: each expert's maps under their own names, or one parameter for
 * all, in which rows of gate and up alternate, or all of gate come before those of up.
 */
export type ExpertLayout = 'apart' | 'alternating' | 'joined';

/** What the cache keeps of a layer: keys and values of every position, or one state that every position changes. */
export type CacheShape = PositionsShape | StateShape;

export interface PositionsShape {
  heads: number;
  keyDim: number;
  valueDim: number;
}

export interface StateShape {
  /** By name, the shape of each part for one sequence. */
  state: Record<string, number[]>;
}

export interface LayerInput {
  /** [batch, time, hidden] */
  x: Tensor;
  weights: Record<string, Tensor>;
  /** By {@link LoraModule.key}; absent keys are not adapted. */
  lora: Record<string, LoraTensors>;
  rope: RopeTensors;
  attend: AttendFn;
  /** For layers whose {@link CacheShape} is a state; they call its `keep` and not `attend`. */
  state: RecurrentState;
  /** True where `attend` looks at a cache besides the new positions. */
  decoding: boolean;
}

export interface Architecture<C extends DecoderConfig = DecoderConfig> {
  /** `model_type` values of config.json that this family serves. */
  modelTypes: readonly string[];
  /** @throws EngineError (user) naming the field of config.json that is wrong or unsupported. */
  parseConfig(json: unknown): C;
  /** Local weight name → where the checkpoint has it, for one layer. */
  layerTensors(config: C, layer: number): Record<string, WeightSource>;
  /** Embedding, final norm and head tensor names; no head where embeddings are tied. */
  outerTensors(config: C): { embed: string; finalNorm: string; head?: string };
  layerModules(config: C, layer: number): LoraModule[];
  /** For families whose layers differ in it; elsewhere every layer has the model's rope and no window. */
  layerAttention?(config: C, layer: number): LayerAttention;
  /** For families that cache something else than each key head's keys and values. */
  cacheShape?(config: C, layer: number): CacheShape;
  /** Values per token that a layer's mixing of positions keeps for a backward pass; elsewhere those of attention's matrix. */
  mixingSize?(config: C, layer: number, length: number): number;
  /** Layers have experts, whose numbers of rows are values: their functions cannot be compiled with XLA. */
  hasExperts?: boolean;
  /** Layers use an adapter's A and B by themselves, not through `linear`: rows of a batch have matrices of their own then. */
  takesAdaptersApart?: boolean;
  /**
   * Layers are Llama's, with or without biases and head norms of queries and keys, under Llama's and Qwen's local names of weights, and the
   * final norm is RMSNorm: prompts and decode steps may run them all by one native call instead of by `layer`, and the head by another
   * instead of by `finalNorm` and `linear`; training may run each forward and backward by one. Tests hold them against each other.
   */
  hasLlamaLayers?: boolean;
  /** One decoder layer: [batch, time, hidden] → the same. */
  layer(config: C, input: LayerInput): Tensor;
  /** Final norm before the head: [rows, hidden] → the same. */
  finalNorm(config: C, x: Tensor, weight: Tensor): Tensor;
}

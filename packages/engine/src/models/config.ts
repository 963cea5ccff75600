/** Reading config.json: the fields that every decoder family shares, in both of Hugging Face's dialects. */
import { z } from 'zod';
import { EngineError } from '../engine.ts';
import { type RopeScaling, yarnMagnitude } from '../layers/rope-scaling.ts';
import type { RopeConfig } from '../layers/rotary.ts';
import type { DecoderConfig } from './architecture.ts';

export const RopeParameters = z.looseObject({
  rope_theta: z.number().positive().optional(),
  rope_type: z.string().optional(),
  type: z.string().optional(),
  factor: z.number().positive().nullish(),
  low_freq_factor: z.number().positive().optional(),
  high_freq_factor: z.number().positive().optional(),
  original_max_position_embeddings: z.number().positive().nullish(),
  attention_factor: z.number().positive().nullish(),
  beta_fast: z.number().min(0).nullish(),
  beta_slow: z.number().min(0).nullish(),
  mscale: z.number().nullish(),
  mscale_all_dim: z.number().nullish(),
  truncate: z.boolean().default(true),
  partial_rotary_factor: z.number().nullish(),
});
export type RopeParameters = z.input<typeof RopeParameters>;

const positive = z.number().int().positive();

/** Fields of a decoder's config.json that we read; the rest is kept for the family's own schema. */
export const DecoderJson = z.looseObject({
  model_type: z.string(),
  vocab_size: positive,
  hidden_size: positive,
  intermediate_size: positive,
  num_hidden_layers: positive,
  num_attention_heads: positive,
  num_key_value_heads: positive.optional(),
  head_dim: positive.nullish(),
  max_position_embeddings: positive,
  rms_norm_eps: z.number().positive(),
  tie_word_embeddings: z.boolean().default(false),
  hidden_act: z.string().default('silu'),
  attention_bias: z.boolean().default(false),
  mlp_bias: z.boolean().default(false),
  sliding_window: positive.nullish(),
  use_sliding_window: z.boolean().default(false),
  eos_token_id: z.union([z.number().int(), z.array(z.number().int())]).nullish(),
  rope_theta: z.number().positive().optional(),
  rope_scaling: RopeParameters.nullish(),
  rope_parameters: RopeParameters.nullish(),
  original_max_position_embeddings: z.number().positive().nullish(),
  partial_rotary_factor: z.number().nullish(),
  quantization_config: z.looseObject({ quant_method: z.string().optional() }).nullish(),
});
export type DecoderJson = z.infer<typeof DecoderJson>;

/** Parses config.json, and says which field is wrong. Families with fields of their own pass an extended schema. */
export function parseDecoderJson(json: unknown): DecoderJson;
export function parseDecoderJson<S extends z.ZodType>(json: unknown, schema: S): z.infer<S>;
export function parseDecoderJson(json: unknown, schema: z.ZodType = DecoderJson): unknown {
  const parsed = schema.safeParse(json);
  if (parsed.success) return parsed.data;
  throw new EngineError('user', `config.json of the model is not usable:\n${z.prettifyError(parsed.error)}`);
}

/** The shared part of a decoder's configuration. */
export function decoderConfig(json: DecoderJson): DecoderConfig {
  const headDim = json.head_dim ?? json.hidden_size / json.num_attention_heads;
  const numKvHeads = json.num_key_value_heads ?? json.num_attention_heads;
  if (json.num_attention_heads % numKvHeads !== 0) {
    throw new EngineError(
      'user',
      `config.json: num_attention_heads ${json.num_attention_heads} is not a multiple of num_key_value_heads ${numKvHeads}.`,
    );
  }
  if (json.hidden_act !== 'silu') throw unsupported('hidden_act', json.hidden_act, 'silu');
  const eos = json.eos_token_id ?? [];
  const parameters: RopeParameters = json.rope_parameters ?? json.rope_scaling ?? {};
  const rotated = parameters.partial_rotary_factor ?? json.partial_rotary_factor ?? 1;
  if (rotated !== 1) throw unsupported('partial_rotary_factor', rotated, '1');
  if (json.quantization_config)
    throw unsupported('quantization_config', json.quantization_config, 'no quantization');
  return {
    modelType: json.model_type,
    vocabSize: json.vocab_size,
    hiddenSize: json.hidden_size,
    numLayers: json.num_hidden_layers,
    numHeads: json.num_attention_heads,
    numKvHeads,
    headDim,
    maxContextLength: json.max_position_embeddings,
    normEps: json.rms_norm_eps,
    tieWordEmbeddings: json.tie_word_embeddings,
    eosTokenIds: Array.isArray(eos) ? eos : [eos],
    rope: ropeConfig(parameters, json.rope_theta, headDim, json),
    attentionScale: 1 / Math.sqrt(headDim),
    embedScale: 1,
  };
}

/** Lengths of contexts, which stretched ropes refer to. */
type Contexts = Partial<Pick<DecoderJson, 'max_position_embeddings' | 'original_max_position_embeddings'>>;

/** @param theta The base where the parameters name none. */
export function ropeConfig(
  parameters: RopeParameters,
  theta: number | undefined,
  dim: number,
  contexts: Contexts = {},
): RopeConfig {
  return {
    theta: parameters.rope_theta ?? theta ?? 10000,
    dim,
    scaling: ropeScaling(parameters, contexts),
  };
}

function ropeScaling(parameters: RopeParameters, contexts: Contexts): RopeScaling {
  const type = parameters.rope_type ?? parameters.type ?? 'default';
  const required = (value: number | null | undefined, key: string): number => {
    if (value != null) return value;
    throw new EngineError('user', `config.json: rope scaling "${type}" needs ${key}.`);
  };
  const factor = () => required(parameters.factor, 'factor');
  const originalMaxPosition = () =>
    required(
      contexts.original_max_position_embeddings ??
        parameters.original_max_position_embeddings ??
        contexts.max_position_embeddings,
      'original_max_position_embeddings',
    );
  if (type === 'default') return { type };
  if (type === 'linear') return { type, factor: factor() };
  if (type === 'llama3') {
    return {
      type,
      factor: factor(),
      lowFreqFactor: required(parameters.low_freq_factor, 'low_freq_factor'),
      highFreqFactor: required(parameters.high_freq_factor, 'high_freq_factor'),
      originalMaxPosition: originalMaxPosition(),
    };
  }
  if (type === 'yarn') {
    const original = originalMaxPosition();
    const implied = contexts.max_position_embeddings && contexts.max_position_embeddings / original;
    const stretch = required(parameters.factor ?? implied, 'factor');
    return {
      type,
      factor: stretch,
      originalMaxPosition: original,
      // As transformers reads them, zero means the default too.
      betaFast: parameters.beta_fast || 32,
      betaSlow: parameters.beta_slow || 1,
      truncate: parameters.truncate ?? true,
      attentionFactor: parameters.attention_factor ?? yarnAttentionFactor(parameters, stretch),
    };
  }
  throw unsupported('rope_scaling.rope_type', type, 'default, linear, llama3, yarn');
}

function yarnAttentionFactor({ mscale, mscale_all_dim: allDim }: RopeParameters, factor: number): number {
  return mscale && allDim
    ? yarnMagnitude(factor, mscale) / yarnMagnitude(factor, allDim)
    : yarnMagnitude(factor);
}

/** A value of config.json that this family does not compute. */
export function unsupported(field: string, value: unknown, supported: string): EngineError {
  return new EngineError(
    'user',
    `config.json: ${field} is ${JSON.stringify(value)}; supported: ${supported}.`,
  );
}

/**
 * Qwen3.5: most layers are gated DeltaNets, every few one attends, with a gate on what it found; norms' weights are distances
 * from one. Checkpoints that also see images have Qwen3-VL's tower, without deepstack. What its mixture-of-experts models share is
 * here too.
 */
import { type Tensor, tf } from '@anneal/tensorflow';
import { z } from 'zod';
import { mergeHeads, splitHeads } from '../layers/attention.ts';
import { type DeltaNetConfig, deltaNetState, fusedWidths, gatedDeltaNet } from '../layers/gated-delta-net.ts';
import { gatedMlp } from '../layers/gated-mlp.ts';
import { linear } from '../layers/linear.ts';
import { rmsNormAroundOne } from '../layers/rms-norm.ts';
import { applyPartialRope } from '../layers/rotary.ts';
import { visionConfig } from '../vision/vision-config.ts';
import type { Architecture, CacheShape, DecoderConfig, LayerInput, LoraModule } from './architecture.ts';
import { DecoderJson, decoderConfig, parseDecoderJson, RopeParameters, unsupported } from './config.ts';
import { type DenseConfig, mlpModules } from './dense-decoder.ts';
import { textPart } from './text-part.ts';
import type { WeightSource } from './weight-source.ts';

export interface HybridConfig extends DecoderConfig {
  /** What names of the text part's tensors begin with. */
  root: string;
  /** Per layer: does it attend, or is it a DeltaNet? */
  attends: boolean[];
  deltaNet: DeltaNetConfig;
}

interface Qwen35Config extends HybridConfig, DenseConfig {}

const count = z.number().int().positive();

/** Qwen3.5's own, for checkpoints that leave them out. */
const IMAGE_TOKEN = 248_056;
const SECTIONS = [11, 11, 10];

const MropeParameters = RopeParameters.extend({
  mrope_interleaved: z.literal(true).optional(),
  mrope_section: z.array(z.number().int().min(0)).length(3).optional(),
}).nullish();

/** The fields of the text part; defaults are those of transformers. */
export const HybridJson = DecoderJson.extend({
  max_position_embeddings: count.default(32_768),
  rms_norm_eps: z.number().positive().default(1e-6),
  num_key_value_heads: count.default(4),
  head_dim: count.default(256),
  partial_rotary_factor: z.number().positive().max(1).default(0.25),
  attn_output_gate: z.literal(true).default(true),
  layer_types: z.array(z.enum(['linear_attention', 'full_attention'])).nullish(),
  full_attention_interval: count.default(4),
  linear_conv_kernel_dim: z.number().int().min(2).default(4),
  linear_key_head_dim: count.default(128),
  linear_value_head_dim: count.default(128),
  linear_num_key_heads: count.default(16),
  linear_num_value_heads: count.default(32),
  mamba_ssm_dtype: z.literal('float32').default('float32'),
  rope_parameters: MropeParameters,
  rope_scaling: MropeParameters,
});
type HybridJson = z.infer<typeof HybridJson>;

/** @param json All of config.json, for the part that sees. */
export function hybridConfig(parsed: HybridJson, root: string, json: unknown): HybridConfig {
  if (parsed.attention_bias) throw unsupported('attention_bias', true, 'false');
  const { num_hidden_layers: numLayers, layer_types: types } = parsed;
  if (types && types.length !== numLayers)
    throw unsupported('layer_types', types, `one entry for each of the ${numLayers} layers`);
  const { linear_num_key_heads: keyHeads, linear_num_value_heads: valueHeads } = parsed;
  if (valueHeads % keyHeads !== 0)
    throw unsupported(
      'linear_num_value_heads',
      valueHeads,
      `a multiple of linear_num_key_heads, ${keyHeads}`,
    );
  const base = decoderConfig(withoutRotaryShare(parsed));
  const { mrope_section: sections = SECTIONS } = parsed.rope_parameters ?? parsed.rope_scaling ?? {};
  return {
    ...base,
    rope: { ...base.rope, dim: rotatedDims(parsed), sections },
    vision: visionConfig(json, base.hiddenSize, { imageTokenId: IMAGE_TOKEN, deepstack: undefined }),
    root,
    attends: Array.from({ length: numLayers }, (_, layer) =>
      types ? types[layer] === 'full_attention' : (layer + 1) % parsed.full_attention_interval === 0,
    ),
    deltaNet: {
      keyHeads,
      valueHeads,
      keyDim: parsed.linear_key_head_dim,
      valueDim: parsed.linear_value_head_dim,
      kernelSize: parsed.linear_conv_kernel_dim,
    },
  };
}

function rotatedDims({ head_dim: headDim, ...parsed }: HybridJson): number {
  const { partial_rotary_factor: share } = parsed.rope_parameters ?? parsed.rope_scaling ?? {};
  const factor = share ?? parsed.partial_rotary_factor;
  const dims = Math.floor(headDim * factor);
  if (dims < 2 || dims > headDim || dims % 2 !== 0)
    throw unsupported('partial_rotary_factor', factor, `an even share of head_dim, ${headDim}`);
  return dims;
}

/** The shared part of a configuration knows heads that rotate as a whole. */
function withoutRotaryShare(parsed: HybridJson): DecoderJson {
  const strip = (rope: RopeParameters | null | undefined) =>
    rope && { ...rope, partial_rotary_factor: undefined, truncate: rope.truncate ?? true };
  return {
    ...parsed,
    partial_rotary_factor: undefined,
    rope_parameters: strip(parsed.rope_parameters),
    rope_scaling: strip(parsed.rope_scaling),
  };
}

export function layerRoot({ root }: HybridConfig, layer: number): string {
  return `${root}.layers.${layer}`;
}

/** Weights of the maps `KEY_proj` under `at`. */
export function projections(at: string, keys: string[]): Record<string, string> {
  return Object.fromEntries(keys.map((key) => [key, `${at}.${key}_proj.weight`]));
}

/** All weights of a layer but its MLP's. */
export function mixingTensors(config: HybridConfig, layer: number): Record<string, WeightSource> {
  const at = layerRoot(config, layer);
  const norms = {
    attnNorm: `${at}.input_layernorm.weight`,
    mlpNorm: `${at}.post_attention_layernorm.weight`,
  };
  return { ...norms, ...(config.attends[layer] ? attentionTensors(at) : deltaNetTensors(at)) };
}

function attentionTensors(at: string): Record<string, WeightSource> {
  const attention = `${at}.self_attn`;
  return {
    ...projections(attention, ['q', 'k', 'v', 'o']),
    qNorm: `${attention}.q_norm.weight`,
    kNorm: `${attention}.k_norm.weight`,
  };
}

function deltaNetTensors(at: string): Record<string, WeightSource> {
  const deltaNet = `${at}.linear_attn`;
  return {
    qkv: `${deltaNet}.in_proj_qkv.weight`,
    z: `${deltaNet}.in_proj_z.weight`,
    a: `${deltaNet}.in_proj_a.weight`,
    b: `${deltaNet}.in_proj_b.weight`,
    out: `${deltaNet}.out_proj.weight`,
    conv: { wide: `${deltaNet}.conv1d.weight` },
    aLog: `${deltaNet}.A_log`,
    dtBias: `${deltaNet}.dt_bias`,
    outNorm: `${deltaNet}.norm.weight`,
  };
}

/** What LoRA adapts of a layer but its MLP. */
export function mixingModules(config: HybridConfig, layer: number): LoraModule[] {
  const at = layerRoot(config, layer);
  return config.attends[layer] ? attentionModules(config, at) : deltaNetModules(config, at);
}

function attentionModules(config: HybridConfig, at: string): LoraModule[] {
  const { hiddenSize, numHeads, numKvHeads, headDim } = config;
  const module = (key: string, inFeatures: number, outFeatures: number): LoraModule => ({
    key,
    path: `${at}.self_attn.${key}_proj`,
    group: 'attn',
    inFeatures,
    outFeatures,
  });
  return [
    module('q', hiddenSize, 2 * numHeads * headDim),
    module('k', hiddenSize, numKvHeads * headDim),
    module('v', hiddenSize, numKvHeads * headDim),
    module('o', numHeads * headDim, hiddenSize),
  ];
}

/** The gates `a` and `b` are adapted where the fused map is adapted by its parts, as the hosted service does. */
function deltaNetModules({ hiddenSize, deltaNet }: HybridConfig, at: string): LoraModule[] {
  const { valueHeads, valueDim } = deltaNet;
  const [queries, keys, values] = fusedWidths(deltaNet) as [number, number, number];
  const module = (key: string, name: string, outFeatures: number, form?: LoraModule['form']): LoraModule => ({
    key,
    path: `${at}.linear_attn.${name}`,
    group: 'attn',
    inFeatures: hiddenSize,
    outFeatures,
    ...(form ? { form } : {}),
  });
  return [
    module('qkv', 'in_proj_qkv', queries + keys + values, 'fused'),
    module('queries', 'in_proj_q', queries, 'split'),
    module('keys', 'in_proj_k', keys, 'split'),
    module('values', 'in_proj_v', values, 'split'),
    module('a', 'in_proj_a', valueHeads, 'split'),
    module('b', 'in_proj_b', valueHeads, 'split'),
    module('z', 'in_proj_z', valueHeads * valueDim),
    { ...module('out', 'out_proj', hiddenSize), inFeatures: valueHeads * valueDim },
  ];
}

/** x plus what the layer mixes into it from other positions. */
export function mixed(config: HybridConfig, input: LayerInput): Tensor {
  const { x, weights: w, lora, state } = input;
  const normed = rmsNormAroundOne(x, w.attnNorm!, config.normEps);
  const { deltaNet, normEps } = config;
  const found = w.qkv
    ? gatedDeltaNet(normed, w, lora, { ...deltaNet, normEps }, state)
    : gatedAttention(config, normed, input);
  return tf.add(x, found);
}

/** Each head's query comes with a gate for what the head finds. */
function gatedAttention(
  config: HybridConfig,
  x: Tensor,
  { weights: w, lora, rope, attend }: LayerInput,
): Tensor {
  const { numHeads, numKvHeads, headDim, normEps } = config;
  const both = splitHeads(linear(x, w.q!, lora.q), numHeads);
  const [query, gate] = tf.split(both, [headDim, headDim], -1) as [Tensor, Tensor];
  const rotated = (heads: Tensor, norm: Tensor) =>
    applyPartialRope(rmsNormAroundOne(heads, norm, normEps), rope);
  const q = rotated(query, w.qNorm!);
  const k = rotated(splitHeads(linear(x, w.k!, lora.k), numKvHeads), w.kNorm!);
  const v = splitHeads(linear(x, w.v!, lora.v), numKvHeads);
  return linear(mergeHeads(tf.mul(attend(q, k, v), tf.sigmoid(gate))), w.o!, lora.o);
}

function cacheShape({ attends, deltaNet, numKvHeads, headDim }: HybridConfig, layer: number): CacheShape {
  return attends[layer]
    ? { heads: numKvHeads, keyDim: headDim, valueDim: headDim }
    : { state: deltaNetState(deltaNet) };
}

/** Of a DeltaNet about: similarities and corrections of each position, and the memory after every 64. */
function mixingSize({ attends, deltaNet, numHeads }: HybridConfig, layer: number, length: number): number {
  if (attends[layer]) return numHeads * length;
  const { valueHeads, keyDim, valueDim } = deltaNet;
  return valueHeads * (3 * 64 + 3 * (keyDim + valueDim) + (2 * keyDim * valueDim) / 64);
}

/** What the dense models and those with experts have in common. */
export const hybridDecoder = {
  outerTensors: ({ root, tieWordEmbeddings }: HybridConfig) => ({
    embed: `${root}.embed_tokens.weight`,
    finalNorm: `${root}.norm.weight`,
    ...(tieWordEmbeddings ? {} : { head: 'lm_head.weight' }),
  }),
  cacheShape,
  mixingSize,
  finalNorm: (config: HybridConfig, x: Tensor, weight: Tensor) => rmsNormAroundOne(x, weight, config.normEps),
} satisfies Partial<Architecture<HybridConfig>>;

function parseConfig(json: unknown): Qwen35Config {
  const { text, root } = textPart(json);
  const parsed = parseDecoderJson(text, HybridJson);
  return { ...hybridConfig(parsed, root, json), intermediateSize: parsed.intermediate_size };
}

export const qwen35: Architecture<Qwen35Config> = {
  ...hybridDecoder,
  modelTypes: ['qwen3_5', 'qwen3_5_text'],
  parseConfig,
  layerTensors: (config, layer) => ({
    ...mixingTensors(config, layer),
    ...projections(`${layerRoot(config, layer)}.mlp`, ['gate', 'up', 'down']),
  }),
  layerModules: (config, layer) => [
    ...mixingModules(config, layer),
    ...mlpModules(config, `${layerRoot(config, layer)}.mlp`),
  ],
  layer: (config, input) => {
    const x = mixed(config, input);
    const normed = rmsNormAroundOne(x, input.weights.mlpNorm!, config.normEps);
    return tf.add(x, gatedMlp(normed, input.weights, input.lora));
  },
};

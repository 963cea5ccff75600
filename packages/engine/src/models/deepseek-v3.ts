/**
 * DeepSeek-V3: latent attention, and after the first layers experts in groups beside one that every token goes through
 * (arXiv:2412.19437).
 */
import { type Tensor, tf } from '@anneal/tensorflow';
import { z } from 'zod';
import { MASKED, mergeHeads, splitHeads } from '../layers/attention.ts';
import { constant } from '../layers/constant.ts';
import { experts, type Routing, routing, scoresAt, topExperts } from '../layers/experts.ts';
import { gatedMlp } from '../layers/gated-mlp.ts';
import { latentAttention } from '../layers/latent-attention.ts';
import { linear } from '../layers/linear.ts';
import { rmsNorm } from '../layers/rms-norm.ts';
import { yarnMagnitude } from '../layers/rope-scaling.ts';
import { applyInterleavedRope, applyRope } from '../layers/rotary.ts';
import type { Architecture, LayerInput, LoraModule } from './architecture.ts';
import { DecoderJson, decoderConfig, parseDecoderJson, type RopeParameters, unsupported } from './config.ts';
import {
  type DenseConfig,
  denseDecoder,
  layerPath,
  mlpModules,
  mlpTensors,
  preNormTensors,
} from './dense-decoder.ts';
import { expertModules, type SparseConfig, separateExperts } from './sparse-mlp.ts';
import type { WeightSource } from './weight-source.ts';

interface DeepseekV3Config extends DenseConfig, SparseConfig {
  /** Width that queries pass through; undefined: none. */
  queryRank: number | undefined;
  latentSize: number;
  keyDim: number;
  ropeDim: number;
  valueDim: number;
  isRopeInterleaved: boolean;
  attentionBias: boolean;
  denseLayers: number;
  sharedSize: number;
  groups: number;
  groupsPerToken: number;
  normalised: boolean;
  routedScale: number;
}

const count = z.number().int().positive();

const DeepseekV3Json = DecoderJson.extend({
  max_position_embeddings: count.default(4096),
  rms_norm_eps: z.number().positive().default(1e-6),
  q_lora_rank: count.nullable().default(1536),
  kv_lora_rank: count.default(512),
  qk_nope_head_dim: count.default(128),
  qk_rope_head_dim: count.default(64),
  v_head_dim: count.default(128),
  rope_interleave: z.boolean().nullable().default(true),
  moe_intermediate_size: count.default(2048),
  n_routed_experts: count.optional(),
  num_local_experts: count.optional(),
  n_shared_experts: count.default(1),
  num_experts_per_tok: count.default(8),
  n_group: count.default(8),
  topk_group: count.default(4),
  first_k_dense_replace: z.number().int().min(0).default(3),
  norm_topk_prob: z.boolean().default(true),
  routed_scaling_factor: z.number().default(2.5),
  scoring_func: z.literal('sigmoid').default('sigmoid'),
  topk_method: z.literal('noaux_tc').default('noaux_tc'),
  moe_layer_freq: z.literal(1).default(1),
});
type DeepseekV3Json = z.infer<typeof DeepseekV3Json>;

/** These norms have transformers' default, whatever rms_norm_eps says. */
const LATENT_NORM_EPS = 1e-6;

function parseConfig(json: unknown): DeepseekV3Config {
  const parsed = parseDecoderJson(json, DeepseekV3Json);
  const { num_attention_heads: heads, num_key_value_heads: kvHeads = heads } = parsed;
  if (kvHeads !== heads) throw unsupported('num_key_value_heads', kvHeads, `num_attention_heads, ${heads}`);
  const numExperts = parsed.n_routed_experts ?? parsed.num_local_experts ?? 256;
  checkGroups(parsed, numExperts);
  const headDim = parsed.qk_nope_head_dim + parsed.qk_rope_head_dim;
  const base = decoderConfig({ ...parsed, head_dim: parsed.qk_rope_head_dim });
  return {
    ...base,
    headDim,
    attentionScale: attentionScale(parsed, headDim),
    intermediateSize: parsed.intermediate_size,
    queryRank: parsed.q_lora_rank ?? undefined,
    latentSize: parsed.kv_lora_rank,
    keyDim: parsed.qk_nope_head_dim,
    ropeDim: parsed.qk_rope_head_dim,
    valueDim: parsed.v_head_dim,
    isRopeInterleaved: parsed.rope_interleave ?? false,
    attentionBias: parsed.attention_bias,
    denseLayers: parsed.first_k_dense_replace,
    numExperts,
    expertsPerToken: parsed.num_experts_per_tok,
    expertSize: parsed.moe_intermediate_size,
    sharedSize: parsed.moe_intermediate_size * parsed.n_shared_experts,
    groups: parsed.n_group,
    groupsPerToken: parsed.topk_group,
    normalised: parsed.norm_topk_prob,
    routedScale: parsed.routed_scaling_factor,
  };
}

function checkGroups(parsed: DeepseekV3Json, numExperts: number): void {
  const { n_group: groups, topk_group: perToken, num_experts_per_tok: picked } = parsed;
  const size = numExperts / groups;
  if (!Number.isInteger(size) || size < 2)
    throw unsupported(
      'n_group',
      groups,
      `a divisor of n_routed_experts, ${numExperts}, into groups of two or more`,
    );
  if (perToken > groups) throw unsupported('topk_group', perToken, `at most n_group, ${groups}`);
  if (picked > perToken * size)
    throw unsupported(
      'num_experts_per_tok',
      picked,
      `at most ${perToken * size}, the experts of topk_group groups`,
    );
}

/** 1/√dim, times the square of YaRN's magnitude where the rope names `mscale_all_dim`. */
function attentionScale(parsed: DeepseekV3Json, headDim: number): number {
  const rope: RopeParameters = parsed.rope_parameters ?? parsed.rope_scaling ?? {};
  const isStretched = (rope.rope_type ?? rope.type ?? 'default') !== 'default';
  const magnitude =
    isStretched && rope.mscale_all_dim ? yarnMagnitude(rope.factor ?? 1, rope.mscale_all_dim) : 1;
  return magnitude ** 2 / Math.sqrt(headDim);
}

const isSparse = ({ denseLayers }: DeepseekV3Config, layer: number) => layer >= denseLayers;
const mlpPath = (layer: number) => `${layerPath(layer)}.mlp`;

function layerTensors(config: DeepseekV3Config, layer: number): Record<string, WeightSource> {
  return {
    ...preNormTensors(layer),
    ...latentTensors(config, layer),
    ...(isSparse(config, layer) ? sparseTensors(config, layer) : mlpTensors(layer)),
  };
}

function latentTensors(config: DeepseekV3Config, layer: number): Record<string, WeightSource> {
  const at = `${layerPath(layer)}.self_attn`;
  const hasQueryRank = config.queryRank !== undefined;
  return {
    ...(hasQueryRank
      ? { qA: `${at}.q_a_proj.weight`, qNorm: `${at}.q_a_layernorm.weight`, qB: `${at}.q_b_proj.weight` }
      : { q: `${at}.q_proj.weight` }),
    kvA: `${at}.kv_a_proj_with_mqa.weight`,
    kvNorm: `${at}.kv_a_layernorm.weight`,
    kvB: `${at}.kv_b_proj.weight`,
    o: `${at}.o_proj.weight`,
    ...(config.attentionBias
      ? {
          ...(hasQueryRank ? { qABias: `${at}.q_a_proj.bias` } : {}),
          kvABias: `${at}.kv_a_proj_with_mqa.bias`,
          oBias: `${at}.o_proj.bias`,
        }
      : {}),
  };
}

/** The expert of every token has the keys of a dense layer's MLP. */
function sparseTensors(config: DeepseekV3Config, layer: number): Record<string, WeightSource> {
  const at = mlpPath(layer);
  return {
    router: `${at}.gate.weight`,
    correction: `${at}.gate.e_score_correction_bias`,
    ...separateExperts(config, `${at}.experts`),
    gate: `${at}.shared_experts.gate_proj.weight`,
    up: `${at}.shared_experts.up_proj.weight`,
    down: `${at}.shared_experts.down_proj.weight`,
  };
}

function layerModules(config: DeepseekV3Config, layer: number): LoraModule[] {
  const mlp = isSparse(config, layer)
    ? [
        ...expertModules(config, `${mlpPath(layer)}.experts`, 'apart'),
        ...mlpModules(
          { hiddenSize: config.hiddenSize, intermediateSize: config.sharedSize },
          `${mlpPath(layer)}.shared_experts`,
        ),
      ]
    : mlpModules(config, mlpPath(layer));
  return [...latentModules(config, layer), ...mlp];
}

function latentModules(config: DeepseekV3Config, layer: number): LoraModule[] {
  const { hiddenSize, numHeads, headDim, queryRank, latentSize, keyDim, ropeDim, valueDim } = config;
  const module = (key: string, name: string, inFeatures: number, outFeatures: number): LoraModule => ({
    key,
    path: `${layerPath(layer)}.self_attn.${name}`,
    group: 'attn',
    inFeatures,
    outFeatures,
  });
  const queries =
    queryRank === undefined
      ? [module('q', 'q_proj', hiddenSize, numHeads * headDim)]
      : [
          module('qA', 'q_a_proj', hiddenSize, queryRank),
          module('qB', 'q_b_proj', queryRank, numHeads * headDim),
        ];
  return [
    ...queries,
    module('kvA', 'kv_a_proj_with_mqa', hiddenSize, latentSize + ropeDim),
    module('kvB', 'kv_b_proj', latentSize, numHeads * (keyDim + valueDim)),
    module('o', 'o_proj', numHeads * valueDim, hiddenSize),
  ];
}

function queries(config: DeepseekV3Config, x: Tensor, { weights: w, lora }: LayerInput): Tensor {
  if (config.queryRank === undefined) return linear(x, w.q!, lora.q);
  const reduced = rmsNorm(linear(x, w.qA!, lora.qA, w.qABias), w.qNorm!, LATENT_NORM_EPS);
  return linear(reduced, w.qB!, lora.qB);
}

function attention(config: DeepseekV3Config, x: Tensor, input: LayerInput): Tensor {
  const { weights: w, lora, rope, attend, decoding } = input;
  const { numHeads, keyDim, ropeDim, latentSize } = config;
  const rotate = config.isRopeInterleaved ? applyInterleavedRope : applyRope;
  const heads = splitHeads(queries(config, x, input), numHeads);
  const [q, qRope] = tf.split(heads, [keyDim, ropeDim], -1) as [Tensor, Tensor];
  const compressed = linear(x, w.kvA!, lora.kvA, w.kvABias);
  const [latent, kRope] = tf.split(compressed, [latentSize, ropeDim], -1) as [Tensor, Tensor];
  const mixed = latentAttention({
    q,
    qRotated: rotate(qRope, rope),
    latent: rmsNorm(latent, w.kvNorm!, LATENT_NORM_EPS),
    kRotated: rotate(tf.expandDims(kRope, 1), rope),
    expand: w.kvB!,
    lora: lora.kvB,
    attend,
    decoding,
  });
  return linear(mergeHeads(mixed), w.o!, lora.o, w.oBias);
}

/** Sigmoid scores; a correction takes part in the choice of groups and experts, and not in their weights. */
function route(config: DeepseekV3Config, x: Tensor, router: Tensor, correction: Tensor): Routing {
  const scores = tf.sigmoid(tf.reshape(linear(x, router), [-1, config.numExperts]));
  const corrected = constant(() => withinBestGroups(config, tf.add(scores, correction)));
  const chosen = topExperts(corrected, config.expertsPerToken);
  const weights = scoresAt(scores, chosen);
  const shares = config.normalised ? tf.div(weights, tf.add(tf.sum(weights, -1, true), 1e-20)) : weights;
  return routing(chosen, tf.mul(shares, config.routedScale), config.numExperts);
}

/** Scores [tokens, experts], masked outside the groups whose two best add up to most. */
function withinBestGroups({ groups, groupsPerToken }: DeepseekV3Config, scores: Tensor): Tensor {
  if (groupsPerToken === groups) return scores;
  const [tokens, numExperts] = scores.shape as [number, number];
  const grouped = tf.reshape(scores, [tokens, groups, numExperts / groups]);
  const best = tf.topk(tf.sum(tf.topk(grouped, 2).values, -1), groupsPerToken).indices;
  const isBest = tf.sum(tf.oneHot(best as never, groups, 1, 0, 'float32'), 1);
  const mask = tf.mul(tf.sub(1, tf.expandDims(isBest, -1)), MASKED);
  return tf.reshape(tf.add(grouped, mask), scores.shape);
}

function layer(config: DeepseekV3Config, input: LayerInput): Tensor {
  const { x, weights: w, lora } = input;
  const attended = tf.add(x, attention(config, rmsNorm(x, w.attnNorm!, config.normEps), input));
  const normed = rmsNorm(attended, w.mlpNorm!, config.normEps);
  const fed = gatedMlp(normed, w, lora);
  if (!w.router) return tf.add(attended, fed);
  const routed = route(config, normed, w.router, w.correction!);
  return tf.add(attended, tf.add(experts(normed, w, lora, routed), fed));
}

export const deepseekV3: Architecture<DeepseekV3Config> = {
  outerTensors: denseDecoder.outerTensors,
  modelTypes: ['deepseek_v3'],
  parseConfig,
  layerTensors,
  layerModules,
  cacheShape: ({ latentSize, ropeDim }) => ({
    heads: 1,
    keyDim: latentSize + ropeDim,
    valueDim: latentSize,
  }),
  hasExperts: true,
  takesAdaptersApart: true,
  layer,
  finalNorm: (config, x, weight) => rmsNorm(x, weight, config.normEps),
};

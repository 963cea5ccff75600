/** Qwen3's mixture-of-experts models: its attention, and in most or all layers experts instead of one MLP (arXiv:2505.09388). */
import { type Tensor, tf } from '@anneal/tensorflow';
import { z } from 'zod';
import { experts, type Routing, routing, scoresAt, topExperts } from '../layers/experts.ts';
import { gatedMlp } from '../layers/gated-mlp.ts';
import { linear } from '../layers/linear.ts';
import { rmsNorm } from '../layers/rms-norm.ts';
import type { Architecture, LayerInput, LoraModule } from './architecture.ts';
import { DecoderJson, decoderConfig, parseDecoderJson, unsupported } from './config.ts';
import {
  attentionModules,
  attentionTensors,
  type DenseConfig,
  denseDecoder,
  layerPath,
  mlpModules,
  mlpTensors,
  preNormTensors,
} from './dense-decoder.ts';
import { attention, headNormTensors, refuseOptions } from './qwen3.ts';
import { expertModules, type SparseConfig, separateExperts } from './sparse-mlp.ts';
import type { WeightSource } from './weight-source.ts';

interface Qwen3MoeConfig extends DenseConfig, SparseConfig {
  /** Per layer: has it experts? */
  isSparse: boolean[];
  /** Whether the weights of a token's experts add up to one. */
  normalised: boolean;
}

const count = z.number().int().positive();

const Qwen3MoeJson = DecoderJson.extend({
  max_position_embeddings: count.default(32_768),
  rms_norm_eps: z.number().positive().default(1e-6),
  num_key_value_heads: count.default(4),
  moe_intermediate_size: count.default(768),
  num_experts: z.number().int().min(0).optional(),
  num_local_experts: z.number().int().min(0).optional(),
  num_experts_per_tok: count.default(8),
  norm_topk_prob: z.boolean().default(false),
  decoder_sparse_step: count.default(1),
  mlp_only_layers: z.array(z.number().int().min(0)).nullish(),
});

function parseConfig(json: unknown): Qwen3MoeConfig {
  const parsed = parseDecoderJson(json, Qwen3MoeJson);
  refuseOptions(parsed);
  const numExperts = parsed.num_experts ?? parsed.num_local_experts ?? 128;
  const { num_experts_per_tok: expertsPerToken, decoder_sparse_step: step } = parsed;
  if (expertsPerToken > Math.max(numExperts, 1))
    throw unsupported('num_experts_per_tok', expertsPerToken, `at most num_experts, ${numExperts}`);
  const dense = new Set(parsed.mlp_only_layers);
  return {
    ...decoderConfig(parsed),
    intermediateSize: parsed.intermediate_size,
    numExperts,
    expertsPerToken,
    expertSize: parsed.moe_intermediate_size,
    normalised: parsed.norm_topk_prob,
    isSparse: Array.from(
      { length: parsed.num_hidden_layers },
      (_, layer) => numExperts > 0 && !dense.has(layer) && (layer + 1) % step === 0,
    ),
  };
}

const mlpPath = (layer: number) => `${layerPath(layer)}.mlp`;

function layerTensors(config: Qwen3MoeConfig, layer: number): Record<string, WeightSource> {
  return {
    ...preNormTensors(layer),
    ...attentionTensors(layer),
    ...headNormTensors(layer),
    ...(config.isSparse[layer]
      ? {
          router: `${mlpPath(layer)}.gate.weight`,
          ...separateExperts(config, `${mlpPath(layer)}.experts`),
        }
      : mlpTensors(layer)),
  };
}

function layerModules(config: Qwen3MoeConfig, layer: number): LoraModule[] {
  const mlp = config.isSparse[layer]
    ? expertModules(config, `${mlpPath(layer)}.experts`, 'apart')
    : mlpModules(config, mlpPath(layer));
  return [...attentionModules(config, layer), ...mlp];
}

/** Softmax over all experts, then the best of them. */
export function route(
  config: Pick<Qwen3MoeConfig, 'numExperts' | 'expertsPerToken' | 'normalised'>,
  x: Tensor,
  router: Tensor,
): Routing {
  const logits = linear(x, router);
  const probabilities = tf.softmax(tf.reshape(logits, [-1, config.numExperts]));
  const chosen = topExperts(probabilities, config.expertsPerToken);
  const weights = scoresAt(probabilities, chosen);
  const scaled = config.normalised ? tf.div(weights, tf.sum(weights, -1, true)) : weights;
  return routing(chosen, scaled, config.numExperts);
}

function layer(config: Qwen3MoeConfig, input: LayerInput): Tensor {
  const { x, weights: w, lora } = input;
  const attended = tf.add(x, attention(config, rmsNorm(x, w.attnNorm!, config.normEps), input));
  const normed = rmsNorm(attended, w.mlpNorm!, config.normEps);
  const fed = w.router
    ? experts(normed, w, lora, route(config, normed, w.router))
    : gatedMlp(normed, w, lora);
  return tf.add(attended, fed);
}

export const qwen3Moe: Architecture<Qwen3MoeConfig> = {
  outerTensors: denseDecoder.outerTensors,
  modelTypes: ['qwen3_moe'],
  parseConfig,
  layerTensors,
  layerModules,
  hasExperts: true,
  layer,
  finalNorm: (config, x, weight) => rmsNorm(x, weight, config.normEps),
};

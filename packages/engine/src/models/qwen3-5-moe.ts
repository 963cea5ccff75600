/** Qwen3.5's mixture-of-experts models: its layers, with experts and a gated expert for every token in place of the MLP. */
import { tf } from '@anneal/tensorflow';
import { z } from 'zod';
import { experts } from '../layers/experts.ts';
import { gatedMlp } from '../layers/gated-mlp.ts';
import { linear } from '../layers/linear.ts';
import { rmsNormAroundOne } from '../layers/rms-norm.ts';
import type { Architecture } from './architecture.ts';
import { parseDecoderJson, unsupported } from './config.ts';
import { mlpModules } from './dense-decoder.ts';
import {
  type HybridConfig,
  HybridJson,
  hybridConfig,
  hybridDecoder,
  layerRoot,
  mixed,
  mixingModules,
  mixingTensors,
  projections,
} from './qwen3-5.ts';
import { route } from './qwen3-moe.ts';
import { expertModules, type SparseConfig, separateOrFusedExperts } from './sparse-mlp.ts';
import { textPart } from './text-part.ts';

interface Qwen35MoeConfig extends HybridConfig, SparseConfig {
  /** Of the expert that every token goes through. */
  sharedSize: number;
}

const count = z.number().int().positive();

const Qwen35MoeJson = HybridJson.extend({
  num_key_value_heads: count.default(2),
  moe_intermediate_size: count.default(512),
  shared_expert_intermediate_size: count.default(512),
  num_experts: count.default(256),
  num_experts_per_tok: count.default(8),
  // No layer of these models is dense, and weights of a token's experts always add up to one.
  intermediate_size: count.default(512),
  mlp_only_layers: z.array(z.number()).max(0).nullish(),
  decoder_sparse_step: z.literal(1).default(1),
  norm_topk_prob: z.literal(true).default(true),
});

function parseConfig(json: unknown): Qwen35MoeConfig {
  const { text, root } = textPart(json);
  const parsed = parseDecoderJson(text, Qwen35MoeJson);
  const { num_experts: numExperts, num_experts_per_tok: expertsPerToken } = parsed;
  if (expertsPerToken > numExperts)
    throw unsupported('num_experts_per_tok', expertsPerToken, `at most num_experts, ${numExperts}`);
  return {
    ...hybridConfig(parsed, root, json),
    numExperts,
    expertsPerToken,
    expertSize: parsed.moe_intermediate_size,
    sharedSize: parsed.shared_expert_intermediate_size,
  };
}

export const qwen35Moe: Architecture<Qwen35MoeConfig> = {
  ...hybridDecoder,
  modelTypes: ['qwen3_5_moe', 'qwen3_5_moe_text'],
  parseConfig,
  layerTensors: (config, layer) => {
    const at = `${layerRoot(config, layer)}.mlp`;
    return {
      ...mixingTensors(config, layer),
      router: `${at}.gate.weight`,
      ...separateOrFusedExperts(config, `${at}.experts`),
      // The shared expert has the keys of a dense layer's MLP.
      ...projections(`${at}.shared_expert`, ['gate', 'up', 'down']),
      sharedGate: `${at}.shared_expert_gate.weight`,
    };
  },
  layerModules: (config, layer) => {
    const at = `${layerRoot(config, layer)}.mlp`;
    const { hiddenSize, sharedSize: intermediateSize } = config;
    return [
      ...mixingModules(config, layer),
      ...expertModules(config, `${at}.experts`, 'joined'),
      ...mlpModules({ hiddenSize, intermediateSize }, `${at}.shared_expert`),
    ];
  },
  hasExperts: true,
  layer: (config, input) => {
    const { weights: w, lora } = input;
    const x = mixed(config, input);
    const normed = rmsNormAroundOne(x, w.mlpNorm!, config.normEps);
    const routed = route({ ...config, normalised: true }, normed, w.router!);
    const shared = tf.mul(gatedMlp(normed, w, lora), tf.sigmoid(linear(normed, w.sharedGate!)));
    return tf.add(x, tf.add(experts(normed, w, lora, routed), shared));
  },
};

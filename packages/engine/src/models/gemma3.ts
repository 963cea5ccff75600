/**
 * Gemma 3's text models: scaled embeddings, norms before and after attention and MLP, and layers that see either the whole
 * context or a sliding window, each kind with a rope of its own (Gemma 3 report 2025, arXiv:2503.19786).
 */
import { type Tensor, tf } from '@anneal/tensorflow';
import { z } from 'zod';
import { mergeHeads, splitHeads } from '../layers/attention.ts';
import { gatedMlp, geluTanh } from '../layers/gated-mlp.ts';
import { linear } from '../layers/linear.ts';
import { rmsNormAroundOne } from '../layers/rms-norm.ts';
import { applyRope, type RopeConfig } from '../layers/rotary.ts';
import type { Architecture, LayerInput } from './architecture.ts';
import {
  DecoderJson,
  decoderConfig,
  parseDecoderJson,
  RopeParameters,
  ropeConfig,
  unsupported,
} from './config.ts';
import { attentionTensors, type DenseConfig, denseDecoder, layerPath, mlpTensors } from './dense-decoder.ts';

interface Gemma3Config extends DenseConfig {
  window: number;
  /** Per layer: does it see the window only? */
  isLocal: boolean[];
  localRope: RopeConfig;
}

const Gemma3Json = DecoderJson.extend({
  hidden_activation: z.literal('gelu_pytorch_tanh').default('gelu_pytorch_tanh'),
  tie_word_embeddings: z.boolean().default(true),
  query_pre_attn_scalar: z.number().positive().default(256),
  sliding_window: z.number().int().positive().default(4096),
  /** Newer files list the layers' types; older ones say that every nth layer sees everything. */
  layer_types: z.array(z.enum(['sliding_attention', 'full_attention'])).nullish(),
  sliding_window_pattern: z.number().int().positive().default(6),
  rope_theta: z.number().positive().default(1_000_000),
  rope_local_base_freq: z.number().positive().default(10_000),
  rope_parameters: z
    .object({ full_attention: RopeParameters, sliding_attention: RopeParameters })
    .partial()
    .nullish(),
  attn_logit_softcapping: z.number().nullish(),
  final_logit_softcapping: z.number().nullish(),
  use_bidirectional_attention: z.boolean().nullish(),
});

function parseConfig(json: unknown): Gemma3Config {
  const parsed = parseDecoderJson(json, Gemma3Json);
  refuseOptions(parsed);
  const { head_dim, num_hidden_layers, query_pre_attn_scalar, sliding_window_pattern: pattern } = parsed;
  const headDim = head_dim ?? 256;
  const types = parsed.layer_types;
  if (types && types.length !== num_hidden_layers)
    throw unsupported('layer_types', types, `one entry for each of the ${num_hidden_layers} layers`);
  const { full_attention: full, sliding_attention: sliding } = parsed.rope_parameters ?? {};
  return {
    ...decoderConfig({ ...parsed, head_dim: headDim, rope_parameters: full }),
    intermediateSize: parsed.intermediate_size,
    attentionScale: 1 / Math.sqrt(query_pre_attn_scalar),
    embedScale: Math.sqrt(parsed.hidden_size),
    window: parsed.sliding_window,
    isLocal: Array.from({ length: num_hidden_layers }, (_, layer) =>
      types ? types[layer] === 'sliding_attention' : (layer + 1) % pattern !== 0,
    ),
    localRope: ropeConfig(sliding ?? {}, parsed.rope_local_base_freq, headDim),
  };
}

function refuseOptions(parsed: z.infer<typeof Gemma3Json>): void {
  if (parsed.attention_bias) throw unsupported('attention_bias', true, 'false');
  if (parsed.use_bidirectional_attention) throw unsupported('use_bidirectional_attention', true, 'false');
  for (const field of ['attn_logit_softcapping', 'final_logit_softcapping'] as const) {
    if (parsed[field] != null) throw unsupported(field, parsed[field], 'null');
  }
}

function layerTensors(_config: Gemma3Config, layer: number): Record<string, string> {
  const at = layerPath(layer);
  return {
    ...attentionTensors(layer),
    ...mlpTensors(layer),
    qNorm: `${at}.self_attn.q_norm.weight`,
    kNorm: `${at}.self_attn.k_norm.weight`,
    attnNorm: `${at}.input_layernorm.weight`,
    attnOutNorm: `${at}.post_attention_layernorm.weight`,
    mlpNorm: `${at}.pre_feedforward_layernorm.weight`,
    mlpOutNorm: `${at}.post_feedforward_layernorm.weight`,
  };
}

function attention(config: Gemma3Config, x: Tensor, { weights: w, lora, rope, attend }: LayerInput): Tensor {
  const normed = (heads: Tensor, weight: Tensor) =>
    applyRope(rmsNormAroundOne(heads, weight, config.normEps), rope);
  const q = normed(splitHeads(linear(x, w.q!, lora.q), config.numHeads), w.qNorm!);
  const k = normed(splitHeads(linear(x, w.k!, lora.k), config.numKvHeads), w.kNorm!);
  const v = splitHeads(linear(x, w.v!, lora.v), config.numKvHeads);
  return linear(mergeHeads(attend(q, k, v)), w.o!, lora.o);
}

function layer(config: Gemma3Config, input: LayerInput): Tensor {
  const { x, weights: w, lora } = input;
  const norm = (value: Tensor, weight: Tensor) => rmsNormAroundOne(value, weight, config.normEps);
  const attended = tf.add(x, norm(attention(config, norm(x, w.attnNorm!), input), w.attnOutNorm!));
  const fed = gatedMlp(norm(attended, w.mlpNorm!), w, lora, geluTanh);
  return tf.add(attended, norm(fed, w.mlpOutNorm!));
}

export const gemma3: Architecture<Gemma3Config> = {
  ...denseDecoder,
  modelTypes: ['gemma3_text'],
  parseConfig,
  layerTensors,
  layerAttention: ({ isLocal, localRope, rope, window }, layer) =>
    isLocal[layer] ? { rope: localRope, window } : { rope },
  layer,
  finalNorm: (config, x, weight) => rmsNormAroundOne(x, weight, config.normEps),
};

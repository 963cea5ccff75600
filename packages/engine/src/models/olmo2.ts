/** OLMo 2: norms after attention and MLP instead of before, and one over all of a position's queries and keys (arXiv:2501.00656). */
import { type Tensor, tf } from '@anneal/tensorflow';
import { mergeHeads, splitHeads } from '../layers/attention.ts';
import { gatedMlp } from '../layers/gated-mlp.ts';
import { linear } from '../layers/linear.ts';
import { rmsNorm } from '../layers/rms-norm.ts';
import { applyRope } from '../layers/rotary.ts';
import type { Architecture, LayerInput } from './architecture.ts';
import { decoderConfig, parseDecoderJson, unsupported } from './config.ts';
import { attentionTensors, type DenseConfig, denseDecoder, layerPath, mlpTensors } from './dense-decoder.ts';

function parseConfig(json: unknown): DenseConfig {
  const parsed = parseDecoderJson(json);
  if (parsed.attention_bias) throw unsupported('attention_bias', true, 'false');
  return { ...decoderConfig(parsed), intermediateSize: parsed.intermediate_size };
}

function layerTensors(_config: DenseConfig, layer: number): Record<string, string> {
  const at = layerPath(layer);
  return {
    ...attentionTensors(layer),
    ...mlpTensors(layer),
    qNorm: `${at}.self_attn.q_norm.weight`,
    kNorm: `${at}.self_attn.k_norm.weight`,
    attnOutNorm: `${at}.post_attention_layernorm.weight`,
    mlpOutNorm: `${at}.post_feedforward_layernorm.weight`,
  };
}

function attention(config: DenseConfig, { x, weights: w, lora, rope, attend }: LayerInput): Tensor {
  const normed = (flat: Tensor, weight: Tensor, heads: number) =>
    applyRope(splitHeads(rmsNorm(flat, weight, config.normEps), heads), rope);
  const q = normed(linear(x, w.q!, lora.q), w.qNorm!, config.numHeads);
  const k = normed(linear(x, w.k!, lora.k), w.kNorm!, config.numKvHeads);
  const v = splitHeads(linear(x, w.v!, lora.v), config.numKvHeads);
  return linear(mergeHeads(attend(q, k, v)), w.o!, lora.o);
}

function layer(config: DenseConfig, input: LayerInput): Tensor {
  const { x, weights: w, lora } = input;
  const attended = tf.add(x, rmsNorm(attention(config, input), w.attnOutNorm!, config.normEps));
  return tf.add(attended, rmsNorm(gatedMlp(attended, w, lora), w.mlpOutNorm!, config.normEps));
}

export const olmo2: Architecture<DenseConfig> = {
  ...denseDecoder,
  modelTypes: ['olmo2'],
  parseConfig,
  layerTensors,
  layer,
  finalNorm: (config, x, weight) => rmsNorm(x, weight, config.normEps),
};

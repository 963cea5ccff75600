/** Qwen3 dense: an RMSNorm on every head's query and key before rotary; head_dim is independent of hidden_size. */
import { type Tensor, tf } from '@anneal/tensorflow';
import { mergeHeads, splitHeads } from '../layers/attention.ts';
import { gatedMlp } from '../layers/gated-mlp.ts';
import { linear } from '../layers/linear.ts';
import { rmsNorm } from '../layers/rms-norm.ts';
import { applyRope } from '../layers/rotary.ts';
import type { Architecture, DecoderConfig, LayerInput } from './architecture.ts';
import { type DecoderJson, decoderConfig, parseDecoderJson, unsupported } from './config.ts';
import { type DenseConfig, denseDecoder, layerPath } from './dense-decoder.ts';

function parseConfig(json: unknown): DenseConfig {
  const parsed = parseDecoderJson(json);
  refuseOptions(parsed);
  return { ...decoderConfig(parsed), intermediateSize: parsed.intermediate_size };
}

/** @throws EngineError (user) for what Qwen3's config.json may ask for and its published models do not use. */
export function refuseOptions(parsed: DecoderJson): void {
  if (parsed.attention_bias) throw unsupported('attention_bias', true, 'false');
  if (parsed.use_sliding_window) throw unsupported('use_sliding_window', true, 'false');
}

/** Names of the query and key norms, [head_dim] each. */
export function headNormTensors(layer: number): Record<string, string> {
  const at = `${layerPath(layer)}.self_attn`;
  return { qNorm: `${at}.q_norm.weight`, kNorm: `${at}.k_norm.weight` };
}

/** Qwen3's attention, which its mixture-of-experts models share. */
export function attention(
  config: DecoderConfig,
  x: Tensor,
  { weights: w, lora, rope, attend }: LayerInput,
): Tensor {
  const normed = (heads: Tensor, weight: Tensor) => applyRope(rmsNorm(heads, weight, config.normEps), rope);
  const q = normed(splitHeads(linear(x, w.q!, lora.q), config.numHeads), w.qNorm!);
  const k = normed(splitHeads(linear(x, w.k!, lora.k), config.numKvHeads), w.kNorm!);
  const v = splitHeads(linear(x, w.v!, lora.v), config.numKvHeads);
  return linear(mergeHeads(attend(q, k, v)), w.o!, lora.o);
}

function layer(config: DenseConfig, input: LayerInput): Tensor {
  const { x, weights: w, lora } = input;
  const attended = tf.add(x, attention(config, rmsNorm(x, w.attnNorm!, config.normEps), input));
  return tf.add(attended, gatedMlp(rmsNorm(attended, w.mlpNorm!, config.normEps), w, lora));
}

export const qwen3: Architecture<DenseConfig> = {
  ...denseDecoder,
  modelTypes: ['qwen3'],
  parseConfig,
  layerTensors: (config, layer) => ({
    ...denseDecoder.layerTensors(config, layer),
    ...headNormTensors(layer),
  }),
  hasLlamaLayers: true,
  layer,
  finalNorm: (config, x, weight) => rmsNorm(x, weight, config.normEps),
};

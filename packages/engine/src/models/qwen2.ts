/** Qwen2 and Qwen2.5: Llama's layer with a bias on queries, keys and values. */
import { type Tensor, tf } from '@anneal/tensorflow';
import { mergeHeads, splitHeads } from '../layers/attention.ts';
import { gatedMlp } from '../layers/gated-mlp.ts';
import { linear } from '../layers/linear.ts';
import { rmsNorm } from '../layers/rms-norm.ts';
import { applyRope } from '../layers/rotary.ts';
import type { Architecture, LayerInput } from './architecture.ts';
import { decoderConfig, parseDecoderJson, unsupported } from './config.ts';
import { type DenseConfig, denseDecoder, layerPath } from './dense-decoder.ts';

function parseConfig(json: unknown): DenseConfig {
  const parsed = parseDecoderJson(json);
  if (parsed.use_sliding_window) throw unsupported('use_sliding_window', true, 'false');
  return { ...decoderConfig(parsed), intermediateSize: parsed.intermediate_size };
}

function layerTensors(config: DenseConfig, layer: number): Record<string, string> {
  const at = `${layerPath(layer)}.self_attn`;
  return {
    ...denseDecoder.layerTensors(config, layer),
    qBias: `${at}.q_proj.bias`,
    kBias: `${at}.k_proj.bias`,
    vBias: `${at}.v_proj.bias`,
  };
}

function attention(config: DenseConfig, x: Tensor, { weights: w, lora, rope, attend }: LayerInput): Tensor {
  const q = applyRope(splitHeads(linear(x, w.q!, lora.q, w.qBias), config.numHeads), rope);
  const k = applyRope(splitHeads(linear(x, w.k!, lora.k, w.kBias), config.numKvHeads), rope);
  const v = splitHeads(linear(x, w.v!, lora.v, w.vBias), config.numKvHeads);
  return linear(mergeHeads(attend(q, k, v)), w.o!, lora.o);
}

function layer(config: DenseConfig, input: LayerInput): Tensor {
  const { x, weights: w, lora } = input;
  const attended = tf.add(x, attention(config, rmsNorm(x, w.attnNorm!, config.normEps), input));
  return tf.add(attended, gatedMlp(rmsNorm(attended, w.mlpNorm!, config.normEps), w, lora));
}

export const qwen2: Architecture<DenseConfig> = {
  ...denseDecoder,
  modelTypes: ['qwen2'],
  parseConfig,
  layerTensors,
  hasLlamaLayers: true,
  layer,
  finalNorm: (config, x, weight) => rmsNorm(x, weight, config.normEps),
};

/** The Llama family: Llama 2/3, SmolLM2, and others that declare `model_type: llama`. */
import { type Tensor, tf } from '@anneal/tensorflow';
import { mergeHeads, splitHeads } from '../layers/attention.ts';
import { gatedMlp } from '../layers/gated-mlp.ts';
import { linear } from '../layers/linear.ts';
import { rmsNorm } from '../layers/rms-norm.ts';
import { applyRope } from '../layers/rotary.ts';
import type { Architecture, LayerInput } from './architecture.ts';
import { decoderConfig, parseDecoderJson, unsupported } from './config.ts';
import { type DenseConfig, denseDecoder } from './dense-decoder.ts';

function parseConfig(json: unknown): DenseConfig {
  const parsed = parseDecoderJson(json);
  if (parsed.attention_bias) throw unsupported('attention_bias', true, 'false');
  if (parsed.mlp_bias) throw unsupported('mlp_bias', true, 'false');
  return { ...decoderConfig(parsed), intermediateSize: parsed.intermediate_size };
}

function attention(config: DenseConfig, x: Tensor, { weights: w, lora, rope, attend }: LayerInput): Tensor {
  const q = applyRope(splitHeads(linear(x, w.q!, lora.q), config.numHeads), rope);
  const k = applyRope(splitHeads(linear(x, w.k!, lora.k), config.numKvHeads), rope);
  const v = splitHeads(linear(x, w.v!, lora.v), config.numKvHeads);
  return linear(mergeHeads(attend(q, k, v)), w.o!, lora.o);
}

function layer(config: DenseConfig, input: LayerInput): Tensor {
  const { x, weights: w, lora } = input;
  const attended = tf.add(x, attention(config, rmsNorm(x, w.attnNorm!, config.normEps), input));
  return tf.add(attended, gatedMlp(rmsNorm(attended, w.mlpNorm!, config.normEps), w, lora));
}

export const llama: Architecture<DenseConfig> = {
  ...denseDecoder,
  modelTypes: ['llama'],
  parseConfig,
  hasLlamaLayers: true,
  layer,
  finalNorm: (config, x, weight) => rmsNorm(x, weight, config.normEps),
};

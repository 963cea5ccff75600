/** The Llama family: Llama 2/3, SmolLM2, and others that declare `model_type: llama`. */
import { type Tensor, tf } from '@anneal/tensorflow';
import { mergeHeads, splitHeads } from '../layers/attention.ts';
import { linear } from '../layers/linear.ts';
import { rmsNorm } from '../layers/rms-norm.ts';
import { applyRope } from '../layers/rotary.ts';
import type { Architecture, DecoderConfig, LayerInput, LoraModule } from './architecture.ts';
import { decoderConfig, parseDecoderJson, unsupported } from './config.ts';

export interface LlamaConfig extends DecoderConfig {
  intermediateSize: number;
}

function parseConfig(json: unknown): LlamaConfig {
  const parsed = parseDecoderJson(json);
  if (parsed.attention_bias) throw unsupported('attention_bias', true, 'false');
  if (parsed.mlp_bias) throw unsupported('mlp_bias', true, 'false');
  return { ...decoderConfig(parsed), intermediateSize: parsed.intermediate_size };
}

function layerTensors(_config: LlamaConfig, layer: number): Record<string, string> {
  const at = `model.layers.${layer}`;
  return {
    attnNorm: `${at}.input_layernorm.weight`,
    q: `${at}.self_attn.q_proj.weight`,
    k: `${at}.self_attn.k_proj.weight`,
    v: `${at}.self_attn.v_proj.weight`,
    o: `${at}.self_attn.o_proj.weight`,
    mlpNorm: `${at}.post_attention_layernorm.weight`,
    gate: `${at}.mlp.gate_proj.weight`,
    up: `${at}.mlp.up_proj.weight`,
    down: `${at}.mlp.down_proj.weight`,
  };
}

function layerModules(config: LlamaConfig, layer: number): LoraModule[] {
  const { hiddenSize, intermediateSize, headDim, numHeads, numKvHeads } = config;
  const at = `model.layers.${layer}`;
  const attn = (key: string, inFeatures: number, outFeatures: number): LoraModule => ({
    key,
    path: `${at}.self_attn.${key}_proj`,
    group: 'attn',
    inFeatures,
    outFeatures,
  });
  const mlp = (key: string, inFeatures: number, outFeatures: number): LoraModule => ({
    key,
    path: `${at}.mlp.${key}_proj`,
    group: 'mlp',
    inFeatures,
    outFeatures,
  });
  return [
    attn('q', hiddenSize, numHeads * headDim),
    attn('k', hiddenSize, numKvHeads * headDim),
    attn('v', hiddenSize, numKvHeads * headDim),
    attn('o', numHeads * headDim, hiddenSize),
    mlp('gate', hiddenSize, intermediateSize),
    mlp('up', hiddenSize, intermediateSize),
    mlp('down', intermediateSize, hiddenSize),
  ];
}

function attention(config: LlamaConfig, x: Tensor, { weights: w, lora, rope, attend }: LayerInput): Tensor {
  const q = applyRope(splitHeads(linear(x, w.q!, lora.q), config.numHeads), rope);
  const k = applyRope(splitHeads(linear(x, w.k!, lora.k), config.numKvHeads), rope);
  const v = splitHeads(linear(x, w.v!, lora.v), config.numKvHeads);
  return linear(mergeHeads(attend(q, k, v)), w.o!, lora.o);
}

function mlp(x: Tensor, { weights: w, lora }: LayerInput): Tensor {
  const gate = linear(x, w.gate!, lora.gate);
  const up = linear(x, w.up!, lora.up);
  return linear(tf.mul(tf.mul(gate, tf.sigmoid(gate)), up), w.down!, lora.down);
}

function layer(config: LlamaConfig, input: LayerInput): Tensor {
  const attended = tf.add(
    input.x,
    attention(config, rmsNorm(input.x, input.weights.attnNorm!, config.normEps), input),
  );
  return tf.add(attended, mlp(rmsNorm(attended, input.weights.mlpNorm!, config.normEps), input));
}

export const llama: Architecture<LlamaConfig> = {
  modelTypes: ['llama'],
  parseConfig,
  layerTensors,
  outerTensors: ({ tieWordEmbeddings }) => ({
    embed: 'model.embed_tokens.weight',
    finalNorm: 'model.norm.weight',
    ...(tieWordEmbeddings ? {} : { head: 'lm_head.weight' }),
  }),
  layerModules,
  layer,
  finalNorm: (config, x, weight) => rmsNorm(x, weight, config.normEps),
};

/**
 * gpt-oss: attention with sinks, every other layer within a window, and experts with biases whose gate and up rows alternate;
 * published weights are in MXFP4 (OpenAI 2025, arXiv:2508.10925).
 */
import type { SafetensorsReader } from '@anneal/safetensors';
import { type Tensor, tf } from '@anneal/tensorflow';
import { z } from 'zod';
import { mergeHeads, splitHeads } from '../layers/attention.ts';
import {
  type ExpertActivation,
  experts,
  type Routing,
  routing,
  scoresAt,
  topExperts,
} from '../layers/experts.ts';
import { linear } from '../layers/linear.ts';
import { rmsNorm } from '../layers/rms-norm.ts';
import { applyRope } from '../layers/rotary.ts';
import type { Architecture, LayerInput, LoraModule } from './architecture.ts';
import { DecoderJson, decoderConfig, parseDecoderJson, unsupported } from './config.ts';
import {
  attentionModules,
  attentionTensors,
  denseDecoder,
  layerPath,
  preNormTensors,
} from './dense-decoder.ts';
import { readMxfp4Rows } from './mxfp4.ts';
import { expertModules, type SparseConfig } from './sparse-mlp.ts';
import { expectStored, finite, type StackedWeights, type WeightSource } from './weight-source.ts';

interface GptOssConfig extends SparseConfig {
  attentionBias: boolean;
  /** Per layer: positions seen, if not all. */
  windows: (number | undefined)[];
  swigluAlpha: number;
  swigluLimit: number;
}

const count = z.number().int().positive();

/** Where config.json names no rope. */
const DEFAULT_ROPE = {
  rope_type: 'yarn',
  factor: 32,
  beta_fast: 32,
  beta_slow: 1,
  truncate: false,
  original_max_position_embeddings: 4096,
};

const GptOssJson = DecoderJson.extend({
  max_position_embeddings: count.default(131_072),
  rms_norm_eps: z.number().positive().default(1e-5),
  num_key_value_heads: count.default(8),
  head_dim: count.nullable().default(64),
  attention_bias: z.boolean().default(true),
  num_local_experts: count.optional(),
  num_experts: count.optional(),
  num_experts_per_tok: count.optional(),
  experts_per_token: count.optional(),
  sliding_window: count.nullable().default(128),
  layer_types: z.array(z.enum(['sliding_attention', 'full_attention'])).nullish(),
  rope_theta: z.number().positive().default(150_000),
  swiglu_alpha: z.number().default(1.702),
  swiglu_limit: z.number().positive().default(7),
});

function parseConfig(json: unknown): GptOssConfig {
  const { quantization_config: quantization, ...parsed } = parseDecoderJson(json, GptOssJson);
  const { layer_types: types, num_hidden_layers: numLayers, sliding_window: window } = parsed;
  if (quantization && quantization.quant_method !== 'mxfp4')
    throw unsupported('quantization_config.quant_method', quantization.quant_method, 'mxfp4');
  if (types && types.length !== numLayers)
    throw unsupported('layer_types', types, `one entry for each of the ${numLayers} layers`);
  const numExperts = parsed.num_local_experts ?? parsed.num_experts ?? 128;
  const expertsPerToken = parsed.num_experts_per_tok ?? parsed.experts_per_token ?? 4;
  if (expertsPerToken > numExperts)
    throw unsupported('num_experts_per_tok', expertsPerToken, `at most num_local_experts, ${numExperts}`);
  const isLocal = (layer: number) => (types ? types[layer] === 'sliding_attention' : layer % 2 === 0);
  return {
    ...decoderConfig({
      ...parsed,
      rope_parameters: parsed.rope_parameters ?? parsed.rope_scaling ?? DEFAULT_ROPE,
    }),
    numExperts,
    expertsPerToken,
    expertSize: parsed.intermediate_size,
    attentionBias: parsed.attention_bias,
    windows: Array.from({ length: numLayers }, (_, layer) =>
      isLocal(layer) && window !== null ? window : undefined,
    ),
    swigluAlpha: parsed.swiglu_alpha,
    swigluLimit: parsed.swiglu_limit,
  };
}

/**
 * A fused matrix of all experts, [rows, columns] each: MXFP4, or transposed as [experts, columns, rows].
 * @param pick Which rows: gate and up alternate in one matrix.
 */
function fusedExperts(
  name: string,
  shape: [number, number, number],
  pick: { first: number; step: number } = { first: 0, step: 1 },
): StackedWeights {
  const [numExperts, rows, columns] = shape;
  return {
    shape: [numExperts, rows / pick.step, columns],
    part: (reader, expert) =>
      reader.has(`${name}_blocks`)
        ? readMxfp4Rows(reader, name, shape, expert, pick)
        : readColumns(reader, name, shape, expert, pick),
  };
}

function readColumns(
  reader: SafetensorsReader,
  name: string,
  [numExperts, rows, columns]: [number, number, number],
  expert: number,
  { first, step }: { first: number; step: number },
): Float32Array<ArrayBuffer> {
  expectStored(reader, name, [numExperts, columns, rows]);
  const stored = finite(reader.readFloat32PartSync(name, expert, numExperts), name);
  const values = new Float32Array((rows / step) * columns);
  let at = 0;
  for (let row = first; row < rows; row += step) {
    for (let column = 0; column < columns; column++) values[at++] = stored[column * rows + row]!;
  }
  return values;
}

/** Every second value of each expert's bias. */
function fusedBias(name: string, numExperts: number, size: number, first: number): StackedWeights {
  return {
    shape: [numExperts, size],
    part: (reader, expert) => {
      expectStored(reader, name, [numExperts, 2 * size]);
      const values = finite(reader.readFloat32PartSync(name, expert, numExperts), name);
      return values.filter((_, i) => i % 2 === first);
    },
  };
}

function layerTensors(config: GptOssConfig, layer: number): Record<string, WeightSource> {
  const { numExperts, expertSize, hiddenSize } = config;
  const [attn, mlp] = [`${layerPath(layer)}.self_attn`, `${layerPath(layer)}.mlp`];
  const gateUp = `${mlp}.experts.gate_up_proj`;
  const down = `${mlp}.experts.down_proj`;
  const gateUpShape: [number, number, number] = [numExperts, 2 * expertSize, hiddenSize];
  const biases = ['q', 'k', 'v', 'o'].map((key) => [`${key}Bias`, `${attn}.${key}_proj.bias`]);
  return {
    ...preNormTensors(layer),
    ...attentionTensors(layer),
    ...(config.attentionBias ? Object.fromEntries(biases) : {}),
    sinks: `${attn}.sinks`,
    router: `${mlp}.router.weight`,
    routerBias: `${mlp}.router.bias`,
    w1: fusedExperts(gateUp, gateUpShape, { first: 0, step: 2 }),
    w3: fusedExperts(gateUp, gateUpShape, { first: 1, step: 2 }),
    w2: fusedExperts(down, [numExperts, hiddenSize, expertSize]),
    w1Bias: fusedBias(`${gateUp}_bias`, numExperts, expertSize, 0),
    w3Bias: fusedBias(`${gateUp}_bias`, numExperts, expertSize, 1),
    w2Bias: `${down}_bias`,
  };
}

function layerModules(config: GptOssConfig, layer: number): LoraModule[] {
  return [
    ...attentionModules(config, layer),
    ...expertModules(config, `${layerPath(layer)}.mlp.experts`, 'alternating'),
  ];
}

function attention(config: GptOssConfig, x: Tensor, { weights: w, lora, rope, attend }: LayerInput): Tensor {
  const q = applyRope(splitHeads(linear(x, w.q!, lora.q, w.qBias), config.numHeads), rope);
  const k = applyRope(splitHeads(linear(x, w.k!, lora.k, w.kBias), config.numKvHeads), rope);
  const v = splitHeads(linear(x, w.v!, lora.v, w.vBias), config.numKvHeads);
  return linear(mergeHeads(attend(q, k, v, { sinks: w.sinks! })), w.o!, lora.o, w.oBias);
}

/** The best experts, and a softmax over those alone. */
function route(config: GptOssConfig, x: Tensor, router: Tensor, bias: Tensor): Routing {
  const logits = tf.reshape(linear(x, router, undefined, bias), [-1, config.numExperts]);
  const chosen = topExperts(logits, config.expertsPerToken);
  return routing(chosen, tf.softmax(scoresAt(logits, chosen)), config.numExperts);
}

function clampedSwiglu({ swigluAlpha: alpha, swigluLimit: limit }: GptOssConfig): ExpertActivation {
  return (gate, up) => {
    const clamped = tf.minimum(gate, limit);
    const glu = tf.mul(clamped, tf.sigmoid(tf.mul(clamped, alpha)));
    return tf.mul(tf.add(tf.clipByValue(up, -limit, limit), 1), glu);
  };
}

function layer(config: GptOssConfig, input: LayerInput): Tensor {
  const { x, weights: w, lora } = input;
  const attended = tf.add(x, attention(config, rmsNorm(x, w.attnNorm!, config.normEps), input));
  const normed = rmsNorm(attended, w.mlpNorm!, config.normEps);
  const routed = route(config, normed, w.router!, w.routerBias!);
  return tf.add(attended, experts(normed, w, lora, routed, clampedSwiglu(config)));
}

export const gptOss: Architecture<GptOssConfig> = {
  outerTensors: denseDecoder.outerTensors,
  modelTypes: ['gpt_oss'],
  parseConfig,
  layerTensors,
  layerModules,
  layerAttention: ({ rope, windows }, layer) => ({ rope, window: windows[layer] }),
  hasExperts: true,
  layer,
  finalNorm: (config, x, weight) => rmsNorm(x, weight, config.normEps),
};

/** What the dense decoder families have in common: their weights' names in a checkpoint, and what LoRA adapts. */
import type { Architecture, DecoderConfig, LoraGroup, LoraModule } from './architecture.ts';

export interface DenseConfig extends DecoderConfig {
  intermediateSize: number;
}

/** Where a layer's weights are in the checkpoint. */
export function layerPath(layer: number): string {
  return `model.layers.${layer}`;
}

export function attentionTensors(layer: number): Record<string, string> {
  const at = `${layerPath(layer)}.self_attn`;
  return {
    q: `${at}.q_proj.weight`,
    k: `${at}.k_proj.weight`,
    v: `${at}.v_proj.weight`,
    o: `${at}.o_proj.weight`,
  };
}

export function mlpTensors(layer: number): Record<string, string> {
  const at = `${layerPath(layer)}.mlp`;
  return {
    gate: `${at}.gate_proj.weight`,
    up: `${at}.up_proj.weight`,
    down: `${at}.down_proj.weight`,
  };
}

/** Norms before attention and before the MLP. */
export function preNormTensors(layer: number): Record<string, string> {
  return {
    attnNorm: `${layerPath(layer)}.input_layernorm.weight`,
    mlpNorm: `${layerPath(layer)}.post_attention_layernorm.weight`,
  };
}

export function attentionModules(config: DecoderConfig, layer: number): LoraModule[] {
  const { hiddenSize, headDim, numHeads, numKvHeads } = config;
  const module = projection(`${layerPath(layer)}.self_attn`, 'attn');
  return [
    module('q', hiddenSize, numHeads * headDim),
    module('k', hiddenSize, numKvHeads * headDim),
    module('v', hiddenSize, numKvHeads * headDim),
    module('o', numHeads * headDim, hiddenSize),
  ];
}

/** @param at The MLP's path */
export function mlpModules(
  { hiddenSize, intermediateSize }: Pick<DenseConfig, 'hiddenSize' | 'intermediateSize'>,
  at: string,
): LoraModule[] {
  const module = projection(at, 'mlp');
  return [
    module('gate', hiddenSize, intermediateSize),
    module('up', hiddenSize, intermediateSize),
    module('down', intermediateSize, hiddenSize),
  ];
}

function projection(at: string, group: LoraGroup) {
  return (key: string, inFeatures: number, outFeatures: number): LoraModule => ({
    key,
    path: `${at}.${key}_proj`,
    group,
    inFeatures,
    outFeatures,
  });
}

/** What the attention and MLP above add up to for a family without parts of its own. */
export const denseDecoder = {
  layerTensors: (_config: DenseConfig, layer: number) => ({
    ...preNormTensors(layer),
    ...attentionTensors(layer),
    ...mlpTensors(layer),
  }),
  layerModules: (config: DenseConfig, layer: number) => [
    ...attentionModules(config, layer),
    ...mlpModules(config, `${layerPath(layer)}.mlp`),
  ],
  outerTensors: ({ tieWordEmbeddings }: DecoderConfig) => ({
    embed: 'model.embed_tokens.weight',
    finalNorm: 'model.norm.weight',
    ...(tieWordEmbeddings ? {} : { head: 'lm_head.weight' }),
  }),
} satisfies Partial<Architecture<DenseConfig>>;

/** What families with experts have in common: their weights' names in a checkpoint, and what LoRA adapts. */
import type { DecoderConfig, ExpertLayout, LoraModule } from './architecture.ts';
import { stacked, type WeightSource } from './weight-source.ts';

export interface SparseConfig extends DecoderConfig {
  numExperts: number;
  expertsPerToken: number;
  /** Intermediate size of one expert. */
  expertSize: number;
}

/** Weights of checkpoints that store each expert's three matrices apart, under `at`. */
export function separateExperts(
  { numExperts, expertSize, hiddenSize }: SparseConfig,
  at: string,
): Record<string, WeightSource> {
  const all = (name: string, shape: number[]) =>
    stacked(
      Array.from({ length: numExperts }, (_, expert) => `${at}.${expert}.${name}.weight`),
      shape,
    );
  return {
    w1: all('gate_proj', [expertSize, hiddenSize]),
    w3: all('up_proj', [expertSize, hiddenSize]),
    w2: all('down_proj', [hiddenSize, expertSize]),
  };
}

/** Adapters of all experts under `at`: gate, up and down. */
export function expertModules(config: SparseConfig, at: string, layout: ExpertLayout): LoraModule[] {
  const { numExperts: count, expertsPerToken: perToken, expertSize, hiddenSize } = config;
  const module = (key: string, inFeatures: number, outFeatures: number, shared: 'a' | 'b'): LoraModule => ({
    key,
    path: `${at}.${key}`,
    group: 'mlp',
    inFeatures,
    outFeatures,
    experts: { count, perToken, shared, layout },
  });
  return [
    module('w1', hiddenSize, expertSize, 'a'),
    module('w3', hiddenSize, expertSize, 'a'),
    module('w2', expertSize, hiddenSize, 'b'),
  ];
}

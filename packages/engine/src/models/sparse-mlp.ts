/** What families with experts have in common: their weights' names in a checkpoint, and what LoRA adapts. */
import type { DecoderConfig, ExpertLayout, LoraModule } from './architecture.ts';
import { type StackedWeights, stacked, stackedShares, type WeightSource } from './weight-source.ts';

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
): Record<string, StackedWeights> {
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

/** Weights of checkpoints that store them as {@link separateExperts}, or all experts' gate and up as one tensor and down as another. */
export function separateOrFusedExperts(config: SparseConfig, at: string): Record<string, WeightSource> {
  const { numExperts, expertSize, hiddenSize } = config;
  const [gateUp, down] = [`${at}.gate_up_proj`, `${at}.down_proj`];
  const gateUpShape = [numExperts, 2 * expertSize, hiddenSize];
  const downShape = [numExperts, hiddenSize, expertSize];
  const fused = {
    w1: { name: gateUp, stored: gateUpShape, per: 2, first: 0 },
    w3: { name: gateUp, stored: gateUpShape, per: 2, first: 1 },
    w2: { name: down, stored: downShape, per: 1, first: 0 },
  };
  const either = ([key, separate]: [string, StackedWeights]): [string, WeightSource] => {
    const { name, stored, per, first } = fused[key as keyof typeof fused];
    const shares = Array.from({ length: numExperts }, (_, expert) => ({
      name,
      shape: stored,
      index: per * expert + first,
      of: per * numExperts,
    }));
    const { shape, shares: apart } = separate;
    return [key, stackedShares((reader) => (reader.has(name) ? shares : apart!(reader)), shape)];
  };
  return Object.fromEntries(Object.entries(separateExperts(config, at)).map(either));
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

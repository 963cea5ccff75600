/** Reference numbers made with torch, transformers and peft; see packages/engine/fixtures. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { openSafetensors } from '@anneal/safetensors';
import type { EngineDatum, LoraSpec } from '../engine.ts';

const ROOT = path.join(import.meta.dirname, '../../fixtures');

export interface ArchReference {
  sequences: { tokens: number[]; targets: number[]; weights: number[] }[];
  lora: Record<
    string,
    {
      rank: number;
      alpha: number;
      options?: { shared?: boolean };
      loss: number[];
      grad_norm: number[];
      adapters: { key: string }[];
    }
  >;
  greedy: { prompt: number[]; tokens: number[] };
}

/** Fixtures of one family, by folder name. */
export function archFixture(name: string) {
  const dir = path.join(ROOT, 'arch', name);
  const reference = readJson<ArchReference>(path.join(dir, 'reference.json'));
  return {
    modelDir: path.join(dir, 'model'),
    reference,
    tensors: openSafetensors(path.join(dir, 'reference.safetensors')),
    lora: (variant: string) => openSafetensors(path.join(dir, `lora_${variant}.safetensors`)),
    data: reference.sequences.map(crossEntropyDatum),
  };
}

export function fixturePath(...parts: string[]): string {
  return path.join(ROOT, ...parts);
}

export function readJson<T>(file: string): T {
  return JSON.parse(readFileSync(file, 'utf8')) as T;
}

/** A cross-entropy datum of plain numbers. */
export function crossEntropyDatum({
  tokens,
  targets,
  weights,
}: {
  tokens: number[];
  targets: number[];
  weights: number[];
}): EngineDatum {
  return {
    tokens: Int32Array.from(tokens),
    inputs: {
      target_tokens: { dtype: 'int64', shape: [targets.length], data: BigInt64Array.from(targets, BigInt) },
      weights: { dtype: 'float32', shape: [weights.length], data: Float32Array.from(weights) },
    },
  };
}

/** LoRA on everything but the head, unless said. */
export function loraSpec(overrides: Partial<LoraSpec> = {}): LoraSpec {
  return { rank: 4, alpha: 32, trainAttn: true, trainMlp: true, trainUnembed: false, ...overrides };
}

/** Largest absolute difference. */
export function maxDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length) throw new Error(`lengths differ: ${a.length} and ${b.length}`);
  let worst = 0;
  for (let i = 0; i < a.length; i++) worst = Math.max(worst, Math.abs((a[i] as number) - (b[i] as number)));
  return worst;
}

export function maxAbs(values: ArrayLike<number>): number {
  return maxDifference(values, new Float32Array(values.length));
}

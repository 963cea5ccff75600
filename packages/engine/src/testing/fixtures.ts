/** Reference numbers made with torch, transformers and peft; see packages/engine/fixtures. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { openSafetensors } from '@anneal/safetensors';
import type { EngineDatum, EngineImage, LoraSpec } from '../engine.ts';

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
  image?: ImageReference;
}

/** A prompt with images, where a family's fixture has one. */
export interface ImageReference {
  tokens: number[];
  grid_thw: [number, number, number][];
  position_ids: number[][];
  rope_delta: number;
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

/** The prompt with images of a family's fixture, where a patch has 8 pixels to a side and a token 2 patches. */
export function imagePrompt({ reference, tensors }: ReturnType<typeof archFixture>, imageTokenId: number) {
  const { tokens, grid_thw: grids, position_ids: positions, rope_delta: shift } = reference.image!;
  let from = 0;
  const images = grids.map(([, rows, columns], i): EngineImage => {
    const at = tokens.indexOf(imageTokenId, from);
    from = at + (rows * columns) / 4;
    const pixels = Uint8Array.from(tensors.readFloat32Sync(`image.${i}.pixels`));
    return { at, width: 8 * columns, height: 8 * rows, pixels };
  });
  return { prompt: Int32Array.from(tokens), images, positions, shift };
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

/** A step through all layers at once against the same layers one by one, which other tests hold against torch. */
import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { type Tensor, tf } from '@anneal/tensorflow';
import { afterAll, describe, expect, test } from 'vitest';
import { LoraAdapter } from '../lora/adapter.ts';
import { stackAdapters } from '../lora/adapter-stack.ts';
import { loraShapes, sizeOf } from '../lora/shapes.ts';
import { BaseModel } from '../models/base-model.ts';
import type { Precision } from '../models/weight-source.ts';
import { archFixture, loraSpec, readJson } from '../testing/fixtures.ts';
import '../testing/tensorflow.ts';
import { BatchAdapters } from './batch-adapters.ts';
import { Decoder } from './decoder.ts';
import { KvCache, RECENT } from './kv-cache.ts';

const LENGTHS = [5, 9, 2, 7, 3];
const WIDTH = 16;

/** One of another rank, one without attention, and one twice; the base model between them. */
function adaptersOf(base: BaseModel): (LoraAdapter | undefined)[] {
  const make = (rank: number, options: Parameters<typeof loraSpec>[0] = {}) => {
    const spec = loraSpec({ rank, ...options });
    const values = (size: number, by: number) =>
      Float32Array.from({ length: size }, (_, i) => Math.sin(i * by + rank) / 8);
    return LoraAdapter.from(base, spec, (module) => {
      const { a, b } = loraShapes(module, spec);
      return { a: values(sizeOf(a), 1.7), b: values(sizeOf(b), 2.3) };
    });
  };
  const [first, second] = [make(4), make(3, { trainAttn: false })];
  return [first, first, undefined, second, first];
}

/** Steps of the same sequences, with ids that do not depend on what is computed: each step's rows, and the last cache. */
function stepsOf(base: BaseModel, rows: (LoraAdapter | undefined)[], fuse: boolean, count: number) {
  const decoder = new Decoder(base, { xla: false, fuse });
  const cache = new KvCache(base.cacheShapes());
  const adapters = new BatchAdapters(base, decoder);
  const ids = tf.tensor2d(
    Int32Array.from({ length: rows.length * WIDTH }, (_, i) => (i * 7) % base.config.vocabSize),
    [rows.length, WIDTH],
    'int32',
  ) as Tensor;
  const prefilled = decoder.prefill(ids, LENGTHS, stackAdapters(rows, base.layers.length));
  const sources = LENGTHS.map((length, row) => ({ from: 'prefill' as const, row, length }));
  cache.rebuild(sources, rows.length, WIDTH, prefilled.cached);
  const made = Array.from({ length: count }, (_, step) => {
    if (cache.isFull) {
      const kept = LENGTHS.map((_, slot) => ({ from: 'slot' as const, slot, length: cache.length(slot) }));
      cache.rebuild(kept, rows.length, 2 * WIDTH, undefined);
    }
    const tokens = Int32Array.from(rows, (_, row) => (step * 31 + row * 5) % base.config.vocabSize);
    const shifts = rows.map((_, row) => row);
    return decoder.step(tokens, shifts, cache, adapters.of(rows)).dataSync() as Float32Array;
  });
  expect(decoder.fused).toBe(fuse);
  cache.dispose();
  adapters.dispose();
  return made;
}

function farthest(found: Float32Array[], want: Float32Array[]): number {
  const largest = Math.max(...want.map((step) => Math.max(...step.map(Math.abs))));
  const distances = found.map((step, i) =>
    Math.max(...step.map((value, j) => Math.abs(value - want[i]![j]!))),
  );
  return Math.max(...distances) / largest;
}

const LLAMA = archFixture('llama3').modelDir;

/** Llama's fixture as a Mistral that sees six positions. */
function windowed(): string {
  const folder = mkdtempSync(path.join(tmpdir(), 'anneal-mistral-'));
  cpSync(LLAMA, folder, { recursive: true });
  const file = path.join(folder, 'config.json');
  const config = readJson<Record<string, unknown>>(file);
  writeFileSync(file, JSON.stringify({ ...config, model_type: 'mistral', sliding_window: 6 }));
  afterAll(() => rmSync(folder, { recursive: true }));
  return folder;
}

const FAMILIES = ['llama3', 'qwen2', 'qwen3', 'qwen3_vl'];
const cases = [
  ...FAMILIES.map((name) => [name, archFixture(name).modelDir] as const),
  ['mistral', windowed()] as const,
];

describe.each(cases)('%s', (_, folder) => {
  test.each<Precision>(['fp32', 'bf16', 'int8'])('in %s', (precision) => {
    const base = BaseModel.load(folder, precision, 'fp32');
    const rows = adaptersOf(base);
    // More steps than the recent window holds: what was written in place is gathered, too.
    const count = RECENT + 3;
    const fused = stepsOf(base, rows, true, count);
    const apart = stepsOf(base, rows, false, count);
    expect(farthest(fused, apart)).toBeLessThan(2e-5);
    // Adapters do something, and rows differ.
    const plain = stepsOf(
      base,
      rows.map(() => undefined),
      true,
      count,
    );
    expect(farthest(plain, apart)).toBeGreaterThan(1e-3);
    for (const adapter of new Set(rows)) adapter?.dispose();
    base.dispose();
  });
});

test('a step leaves no tensors behind', () => {
  const base = BaseModel.load(LLAMA, 'fp32');
  const rows = adaptersOf(base);
  const decoder = new Decoder(base, { xla: false });
  const cache = new KvCache(base.cacheShapes());
  const adapters = new BatchAdapters(base, decoder);
  const prefilled = decoder.prefill(
    tf.zeros([rows.length, WIDTH], 'int32') as Tensor,
    LENGTHS,
    stackAdapters(rows, base.layers.length),
  );
  const sources = LENGTHS.map((length, row) => ({ from: 'prefill' as const, row, length }));
  cache.rebuild(sources, rows.length, WIDTH, prefilled.cached);
  const step = () => {
    const shifts = rows.map(() => 0);
    decoder.step(new Int32Array(rows.length), shifts, cache, adapters.of(rows)).dispose();
  };
  step();
  const before = tf.memory().numTensors;
  for (let i = 0; i < 5; i++) step();
  expect(tf.memory().numTensors).toBe(before);
  adapters.dispose();
  expect(tf.memory().numTensors).toBeLessThan(before);
});

test('tokens outside the vocabulary are refused', () => {
  const base = BaseModel.load(LLAMA, 'fp32');
  const decoder = new Decoder(base, { xla: false });
  const cache = new KvCache(base.cacheShapes());
  const adapters = new BatchAdapters(base, decoder);
  const { cached } = decoder.prefill(
    tf.zeros([1, WIDTH], 'int32') as Tensor,
    [3],
    stackAdapters([undefined], base.layers.length),
  );
  cache.rebuild([{ from: 'prefill', row: 0, length: 3 }], 1, WIDTH, cached);
  const tokens = Int32Array.of(base.config.vocabSize);
  expect(() => decoder.step(tokens, [0], cache, adapters.of([undefined]))).toThrow(/not in the vocabulary/);
});

/** Steps and prompts through all layers at once against the same layers one by one, which other tests hold against torch. */
import { tf } from '@anneal/tensorflow';
import { afterAll, describe, expect, test } from 'vitest';
import type { LoraAdapter } from '../lora/adapter.ts';
import { stackAdapters } from '../lora/adapter-stack.ts';
import { BaseModel } from '../models/base-model.ts';
import type { Precision } from '../models/weight-source.ts';
import { archFixture } from '../testing/fixtures.ts';
import '../testing/tensorflow.ts';
import { waveAdapter } from '../testing/wave-adapter.ts';
import { windowedFixture } from '../testing/windowed-fixture.ts';
import { BatchAdapters } from './batch-adapters.ts';
import { Decoder } from './decoder.ts';
import { KvCache, windowOf } from './kv-cache.ts';
import { PromptRows } from './prompt-rows.ts';

const LENGTHS = [5, 9, 2, 7, 3];
const WIDTH = 16;
/** What the recent window holds. */
const IN_PLACE_STEPS = windowOf(LENGTHS.length, { inPlace: true, storage: 'float32' });

/** One of another rank, one without attention, and one twice; the base model between them. */
function adaptersOf(base: BaseModel): (LoraAdapter | undefined)[] {
  const make = (rank: number, options = {}) => waveAdapter(base, { rank, ...options });
  const [first, second] = [make(4), make(3, { trainAttn: false })];
  return [first, first, undefined, second, first];
}

const promptsOf = (base: BaseModel) =>
  LENGTHS.map((length, row) =>
    Int32Array.from({ length }, (_, i) => ((row * WIDTH + i) * 7) % base.config.vocabSize),
  );

const stacked = (base: BaseModel, rows: (LoraAdapter | undefined)[]) => ({
  ...stackAdapters(rows, base.layers.length),
  rows,
});

/** Steps of the same sequences, with ids that do not depend on what is computed: each step's rows, and the last cache. */
function stepsOf(base: BaseModel, rows: (LoraAdapter | undefined)[], fuse: boolean, count: number) {
  const decoder = new Decoder(base, { xla: false, fuse });
  const cache = new KvCache(base.cacheShapes(), decoder.layout);
  const adapters = new BatchAdapters(base, decoder);
  const prefilled = new Decoder(base, { xla: false, fuse: false }).prefill(
    promptsOf(base),
    stacked(base, rows),
  );
  const sources = LENGTHS.map((length, row) => ({ from: 'prefill' as const, row, length }));
  cache.rebuild(sources, rows.length, WIDTH, prefilled.cached);
  const made = Array.from({ length: count }, (_, step) => {
    if (cache.isFull) {
      const kept = LENGTHS.map((_, slot) => ({ from: 'slot' as const, slot, length: cache.length(slot) }));
      cache.rebuild(kept, rows.length, 2 * IN_PLACE_STEPS, undefined);
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

/** Prompts together, and one whose second piece follows what the first left: hidden states of their tokens. */
function promptsThrough(base: BaseModel, rows: (LoraAdapter | undefined)[], fuse: boolean): Float32Array[] {
  const decoder = new Decoder(base, { xla: false, fuse });
  const together = decoder.prefill(promptsOf(base), stacked(base, rows));
  const own = LENGTHS.map((length, row) =>
    tf.slice(together.x, [together.cached.starts[row]!, 0], [length, -1]),
  );
  // Longer than what attends together.
  const long = Int32Array.from({ length: 90 }, (_, i) => (i * 13) % base.config.vocabSize);
  const adapters = stacked(base, [rows[0]]);
  const first = decoder.prefill([long.subarray(0, 40)], adapters);
  const before = {
    rows: PromptRows.joined(undefined, first.cached, { row: 0, count: 40, capacity: 48, ...decoder.layout }),
    length: 37,
  };
  const second = decoder.extend(long.subarray(37), before, adapters);
  expect(decoder.fused).toBe(fuse);
  decoder.dispose();
  return [...own, tf.slice(second.x, [0, 0], [53, -1])].map((x) => x.dataSync() as Float32Array);
}

const LLAMA = archFixture('llama3').modelDir;

const FAMILIES = ['llama3', 'qwen2', 'qwen3', 'qwen3_vl'];
const cases = [
  ...FAMILIES.map((name) => [name, archFixture(name).modelDir] as const),
  ['mistral', windowedFixture(afterAll)] as const,
];

describe.each(cases)('%s', (_, folder) => {
  test.each<Precision>(['fp32', 'bf16', 'int8'])('in %s', (precision) => {
    const base = BaseModel.load(folder, precision, 'fp32');
    const rows = adaptersOf(base);
    // More steps than the recent window holds: what was written in place is gathered, too.
    const count = IN_PLACE_STEPS + 3;
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
    expect(farthest(promptsThrough(base, rows, true), promptsThrough(base, rows, false))).toBeLessThan(2e-5);
    for (const adapter of new Set(rows)) adapter?.dispose();
    base.dispose();
  });
});

test('products in bfloat16 differ from those in float32 by less than those of TensorFlow', () => {
  const narrow = BaseModel.load(LLAMA, 'bf16', 'bf16');
  const wide = BaseModel.load(LLAMA, 'bf16', 'fp32');
  const rows = adaptersOf(narrow);
  const through = (base: BaseModel, fuse: boolean) => [
    ...stepsOf(base, rows, fuse, 4),
    ...promptsThrough(base, rows, fuse),
  ];
  const exact = through(wide, true);
  const distance = farthest(through(narrow, true), exact);
  expect(distance).toBeGreaterThan(2e-5);
  // It rounds adapters and results to bfloat16, too.
  expect(distance).toBeLessThan(farthest(through(narrow, false), exact));
});

test.each(['fp32', 'bf16'] as const)(
  'a prompt gives the same to the bit alone, in pieces, and beside others, by products in %s',
  (products) => {
    const base = BaseModel.load(LLAMA, 'bf16', products);
    const decoder = new Decoder(base, { xla: false });
    const adapters = adaptersOf(base);
    const prompt = Int32Array.from({ length: 70 }, (_, i) => (i * 11) % base.config.vocabSize);
    const mine = stacked(base, [adapters[0]]);
    const alone = decoder.prefill([prompt], mine).x.dataSync();
    const others = [adapters[3], adapters[0], undefined];
    const beside = decoder.prefill([prompt.subarray(3), prompt, prompt.subarray(9)], {
      ...mine,
      rows: others,
    });
    expect(tf.slice(beside.x, [67, 0], [70, -1]).dataSync()).toEqual(alone);
    const first = decoder.prefill([prompt.subarray(0, 33)], mine);
    const rows = PromptRows.joined(undefined, first.cached, {
      row: 0,
      count: 33,
      capacity: 48,
      ...decoder.layout,
    });
    const second = decoder.extend(prompt.subarray(33), { rows, length: 33 }, mine);
    expect(tf.concat([first.x, second.x], 0).dataSync()).toEqual(alone);
  },
);

test('a call leaves no tensors behind but what it returns', () => {
  const base = BaseModel.load(LLAMA, 'fp32');
  const rows = adaptersOf(base);
  const decoder = new Decoder(base, { xla: false });
  const cache = new KvCache(base.cacheShapes(), decoder.layout);
  const adapters = new BatchAdapters(base, decoder);
  const prefill = () => decoder.prefill(promptsOf(base), adapters.of(rows));
  const prefilled = prefill();
  const sources = LENGTHS.map((length, row) => ({ from: 'prefill' as const, row, length }));
  cache.rebuild(sources, rows.length, WIDTH, prefilled.cached);
  const step = () => {
    const shifts = rows.map(() => 0);
    decoder.step(new Int32Array(rows.length), shifts, cache, adapters.of(rows)).dispose();
  };
  step();
  const before = tf.memory().numTensors;
  for (let i = 0; i < 5; i++) {
    step();
    const { x, cached } = prefill();
    tf.dispose([x, cached.layers]);
  }
  expect(tf.memory().numTensors).toBe(before);
  decoder.dispose();
});

test('tokens outside the vocabulary are refused', () => {
  const base = BaseModel.load(LLAMA, 'fp32');
  const decoder = new Decoder(base, { xla: false });
  const tokens = Int32Array.of(1, base.config.vocabSize);
  expect(() => decoder.prefill([tokens], stacked(base, [undefined]))).toThrow(/not in the vocabulary/);
});

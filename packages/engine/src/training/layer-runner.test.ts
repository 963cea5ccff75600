/** Layers of training by native calls against the compiled ones, which other tests hold against torch. */
import { type Tensor, tf } from '@anneal/tensorflow';
import { afterAll, describe, expect, test } from 'vitest';
import type { LoraAdapter } from '../lora/adapter.ts';
import { BaseModel } from '../models/base-model.ts';
import type { Precision } from '../models/weight-source.ts';
import { archFixture } from '../testing/fixtures.ts';
import '../testing/tensorflow.ts';
import { causalMaskValues } from '../layers/attention.ts';
import { waveAdapter } from '../testing/wave-adapter.ts';
import { windowedFixture } from '../testing/windowed-fixture.ts';
import { compiledLayers, type LayerPass, type LayerRunner, nativeLayers } from './layer-runner.ts';
import { PassAdapters } from './pass-adapters.ts';

const wave = (shape: [number, number, number], by: number) =>
  tf.tensor3d(
    Float32Array.from({ length: shape[0] * shape[1] * shape[2] }, (_, i) => Math.sin(i * by)),
    shape,
  );

interface Case {
  /** Of each sequence. */
  rows: LoraAdapter[];
  time: number;
  needsDx?: boolean;
  recompute?: boolean;
}

/** What float32 leaves of gradients by queries and keys, whose terms nearly cancel out; others are within a tenth of it. */
const CLOSE = 5e-5;

/** The second layer's result and gradients: dx where it is asked for, then A's and B's. */
function through(base: BaseModel, runner: LayerRunner, { rows, time, ...options }: Case): Tensor[] {
  const { recompute = false, needsDx = true } = options;
  const adapters = new PassAdapters(rows);
  const { rope, window = time } = base.attention[1]!;
  const shape: [number, number, number] = [rows.length, time, base.config.hiddenSize];
  const mask = tf.tensor4d(causalMaskValues(time, window), [1, 1, time, time]);
  const pass: LayerPass = {
    x: wave(shape, 0.73),
    weights: base.layers[1]!,
    layer: 1,
    adapters,
    rope: rope.upTo(time),
    mask: () => mask,
    window,
    needsDx,
  };
  const plain = runner.plain(pass);
  const { output, residuals } = runner.forward(pass, recompute);
  const { dx, grads } = runner.backward(pass, residuals, wave(shape, 0.31), recompute);
  expect(dx !== undefined).toBe(needsDx);
  tf.dispose([pass.x, mask, ...residuals]);
  adapters.dispose();
  return [plain, output, ...(dx ? [dx] : []), ...grads.flat()];
}

/** The largest difference of each tensor from its like, as a share of that one's largest value. */
function farthest(made: Tensor[], expected: Tensor[]): number {
  expect(made.map(({ shape }) => shape)).toEqual(expected.map(({ shape }) => shape));
  const shares = made.map((tensor, i) => {
    const [values, like] = [tensor.dataSync(), expected[i]!.dataSync()];
    let [most, largest] = [0, 0];
    values.forEach((value, j) => {
      most = Math.max(most, Math.abs(value - like[j]!));
      largest = Math.max(largest, Math.abs(like[j]!));
    });
    // A single position's queries and keys have a gradient of zero.
    return most / Math.max(largest, 0.01);
  });
  return Math.max(...shares);
}

const FAMILIES = ['llama3', 'qwen2', 'qwen3', 'qwen3_vl'];
const cases = [
  ...FAMILIES.map((name) => [name, archFixture(name).modelDir] as const),
  ['mistral', windowedFixture(afterAll)] as const,
];

describe.each(cases)('%s', (_, folder) => {
  const base = BaseModel.load(folder, 'fp32');
  const both = (of: Case) =>
    farthest(through(base, nativeLayers(base), of), through(base, compiledLayers(base), of));

  test.each([1, 2, 37, 96, 151])('one adapter, %d positions', (time) => {
    const adapter = waveAdapter(base, { rank: 3 });
    expect(both({ rows: [adapter, adapter], time })).toBeLessThan(CLOSE);
    expect(both({ rows: [adapter, adapter], time, needsDx: false, recompute: true })).toBeLessThan(CLOSE);
  });

  test('several adapters, of which one has rows apart and others leave modules alone', () => {
    const first = waveAdapter(base, { rank: 4 });
    const rows = [
      first,
      waveAdapter(base, { rank: 3, trainAttn: false }),
      first,
      waveAdapter(base, { rank: 1, trainMlp: false }),
    ];
    expect(both({ rows, time: 53 })).toBeLessThan(CLOSE);
  });

  test('an adapter of attention alone', () => {
    expect(both({ rows: [waveAdapter(base, { rank: 8, trainMlp: false })], time: 40 })).toBeLessThan(CLOSE);
  });
});

test.each<Precision>(['bf16', 'int8'])('weights in %s are multiplied as they are', (precision) => {
  const base = BaseModel.load(archFixture('llama3').modelDir, precision, 'fp32');
  const rows = [waveAdapter(base, { rank: 4 })];
  const [native, compiled] = [nativeLayers(base), compiledLayers(base)].map((runner) =>
    through(base, runner, { rows, time: 60 }),
  ) as [Tensor[], Tensor[]];
  expect(farthest(native, compiled)).toBeLessThan(CLOSE);
});

test('products in bfloat16 differ from those in float32 by less than those of TensorFlow', () => {
  const folder = archFixture('llama3').modelDir;
  const [narrow, wide] = [BaseModel.load(folder, 'bf16', 'bf16'), BaseModel.load(folder, 'bf16', 'fp32')];
  const of = { rows: [waveAdapter(narrow, { rank: 4 })], time: 75 };
  const exact = through(wide, compiledLayers(wide), of);
  const native = through(narrow, nativeLayers(narrow), of);
  const distance = farthest(native, exact);
  expect(distance).toBeGreaterThan(CLOSE);
  expect(distance).toBeLessThan(farthest(through(narrow, compiledLayers(narrow), of), exact));
  const again = through(narrow, nativeLayers(narrow), { ...of, recompute: true });
  expect(farthest(again, native)).toBe(0);
});

test('adapters without anything in the layer change nothing', () => {
  const base = BaseModel.load(archFixture('llama3').modelDir, 'fp32');
  const heads = [1, 2].map((rank) => waveAdapter(base, { rank, trainAttn: false, trainMlp: false }));
  const adapters = new PassAdapters(heads);
  const pass = {
    x: wave([2, 5, base.config.hiddenSize], 0.7),
    weights: base.layers[0]!,
    layer: 0,
    adapters,
    rope: base.attention[0]!.rope.upTo(5),
    mask: () => tf.tensor4d(causalMaskValues(5), [1, 1, 5, 5]),
    window: 5,
    needsDx: false,
  };
  const [native, compiled] = [nativeLayers(base), compiledLayers(base)].map((runner) => runner.plain(pass));
  expect(farthest([native!], [compiled!])).toBeLessThan(CLOSE);
});

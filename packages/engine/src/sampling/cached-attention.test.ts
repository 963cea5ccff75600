/** Our own op against the same attention made of tfjs's ops. */
import { type CachedAttentionInputs, cachedAttention, compile, type Tensor, tf } from '@anneal/tensorflow';
import { expect, test } from 'vitest';
import { MASKED } from '../layers/attention.ts';
import '../testing/tensorflow.ts';
import { composedAttention } from './cached-attention.ts';

interface Sizes {
  heads: number;
  slots: number;
  group: number;
  keyDim: number;
  valueDim: number;
  capacity: number;
}

const RECENT = 16;
const SMOLLM2 = { heads: 3, slots: 5, group: 3, keyDim: 64, valueDim: 64, capacity: 64 };

let seed = 0;
const random = (shape: number[]) => tf.randomNormal(shape, 0, 1, 'float32', ++seed) as Tensor;

/** Every slot sees another number of past positions, one of them none, and two recent ones; `window` hides the first of them. */
function inputsOf(
  sizes: Sizes,
  { sinks = false, window = Number.POSITIVE_INFINITY } = {},
): CachedAttentionInputs {
  const { heads, slots, group, keyDim, valueDim, capacity } = sizes;
  const kept = (length: number) => ({
    k: random([heads, slots, length, keyDim]),
    v: random([heads, slots, length, valueDim]),
  });
  const lengths = Array.from({ length: slots }, (_, slot) => Math.floor((slot * capacity) / slots));
  const past = lengths.flatMap((length) =>
    Array.from({ length: capacity }, (_, i) => (i < length && i >= length - window ? 0 : MASKED)),
  );
  const recent = Array.from({ length: slots * RECENT }, (_, i) => (i % RECENT < 2 ? 0 : MASKED));
  return {
    q: tf.mul(random([heads, slots, group, keyDim]), keyDim ** -0.5),
    past: kept(capacity),
    recent: kept(RECENT),
    masks: {
      past: tf.tensor4d(past, [1, slots, 1, capacity]),
      recent: tf.tensor4d(recent, [1, slots, 1, RECENT]),
    },
    ...(sinks ? { sinks: random([heads * group]) } : {}),
  };
}

const own = (xla: boolean) =>
  compile('own_attention', (inputs: CachedAttentionInputs) => ({ y: cachedAttention(inputs)! }), { xla });

const cases: [string, Sizes, Parameters<typeof inputsOf>[1]][] = [
  ['heads of SmolLM2', SMOLLM2, {}],
  ['many positions, shared by threads', { ...SMOLLM2, capacity: 512 }, {}],
  ['a sliding window', SMOLLM2, { window: 7 }],
  ['sinks', { ...SMOLLM2, heads: 2, group: 8 }, { sinks: true }],
  [
    'values of another width, one head of keys',
    { ...SMOLLM2, heads: 1, group: 7, keyDim: 40, valueDim: 24 },
    {},
  ],
  ['widths that fill no vector', { heads: 2, slots: 3, group: 1, keyDim: 5, valueDim: 37, capacity: 9 }, {}],
];

test.each(cases)('%s', (_, sizes, options) => {
  const inputs = inputsOf(sizes, options);
  const wanted = composedAttention(inputs);
  for (const made of [cachedAttention(inputs)!, own(false)(inputs).y, own(true)(inputs).y]) {
    expect(made.shape).toEqual([sizes.heads, sizes.slots, sizes.group, sizes.valueDim]);
    const difference = tf.max(tf.abs(tf.sub(made, wanted))).dataSync()[0]!;
    expect(difference).toBeLessThan(3e-6);
  }
});

test('scores far apart neither overflow nor leave anything but the best', () => {
  const inputs = inputsOf(SMOLLM2);
  const sharp = { ...inputs, q: tf.mul(inputs.q, 1e4) as Tensor };
  const difference = tf.max(tf.abs(tf.sub(cachedAttention(sharp)!, composedAttention(sharp))));
  expect(difference.dataSync()[0]).toBeLessThan(3e-6);
});

test('what is not a number is not hidden', () => {
  const inputs = inputsOf(SMOLLM2);
  const broken = { ...inputs, q: tf.mul(inputs.q, Number.NaN) as Tensor };
  expect([...cachedAttention(broken)!.dataSync()].every(Number.isNaN)).toBe(true);
});

test('a slot gets the same alone, in a smaller cache', () => {
  const inputs = inputsOf(SMOLLM2);
  const slot = 2;
  const length = Math.floor((slot * SMOLLM2.capacity) / SMOLLM2.slots);
  const only = (x: Tensor, positions: number) =>
    tf.slice(x, [0, slot, 0, 0], [-1, 1, positions, -1]) as Tensor;
  const part = ({ k, v }: { k: Tensor; v: Tensor }, positions: number) => ({
    k: only(k, positions),
    v: only(v, positions),
  });
  const alone = cachedAttention({
    q: only(inputs.q, SMOLLM2.group),
    past: part(inputs.past, length),
    recent: part(inputs.recent, 2),
    masks: {
      past: tf.slice(inputs.masks.past, [0, slot, 0, 0], [1, 1, 1, length]),
      recent: tf.slice(inputs.masks.recent, [0, slot, 0, 0], [1, 1, 1, 2]),
    },
  })!;
  const together = only(cachedAttention(inputs)!, SMOLLM2.group);
  expect([...alone.dataSync()]).toEqual([...together.dataSync()]);
});

test('tensors that do not fit together are refused', () => {
  const inputs = inputsOf(SMOLLM2);
  const broken = { ...inputs, recent: { ...inputs.recent, v: random([1, 1, 1, 1]) } };
  expect(() => cachedAttention(broken)).toThrow(/do not fit together/);
});

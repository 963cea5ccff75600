/** Gathered positions against the same rows picked by hand. */
import { canCallNatively, compile, gatherRows, type RowStorage, type Tensor, tf } from '@anneal/tensorflow';
import { expect, test } from 'vitest';
import '../testing/tensorflow.ts';
import { gatherPositions } from './gather-positions.ts';

const HEADS = 3;

/** Each value tells its tensor, head, position and place. */
const part = (id: number, middle: number[], dim: number): Tensor => {
  const count = middle.reduce((a, b) => a * b, 1);
  const values = Float32Array.from(
    { length: HEADS * count * dim },
    (_, i) => id * 1e4 + Math.floor(i / dim / count) * 1e3 + (Math.floor(i / dim) % count) * 10 + (i % dim),
  );
  return tf.tensor(values, [HEADS, ...middle, dim]);
};

test('puts positions of several parts together, each head apart', () => {
  expect(canCallNatively()).toBe(true);
  // Keys and values may differ in their width.
  const parts = [3, 5].map((dim) => [part(1, [2, 4], dim), part(2, [6], dim)]);
  const index = Int32Array.of(4, 5, 6, 7, 8, 9, 0, 0, 13, 2, 3, 1);
  const before = tf.memory().numTensors;
  const made = gatherPositions(parts, index, [2, 6]);
  expect(tf.memory().numTensors).toBe(before + 2);
  made.forEach((tensor, i) => {
    const dim = [3, 5][i]!;
    expect(tensor.shape).toEqual([HEADS, 2, 6, dim]);
    const rows = (parts[i] as Tensor[]).map(
      (own) => own.reshape([HEADS, -1, dim]).arraySync() as number[][][],
    );
    const want = Array.from({ length: HEADS }, (_, head) => {
      const all = rows.flatMap((own) => own[head]!);
      return Array.from(index, (at) => all[at]!);
    });
    expect(tensor.reshape([HEADS, 12, dim]).arraySync()).toEqual(want);
  });
});

test('rounds to bfloat16 what is not in it yet', () => {
  const widen = compile('widen', ({ x }: { x: Tensor }) => ({ y: tf.add(x, 0) as Tensor }));
  const valuesOf = (x: Tensor) => widen({ x }).y.dataSync() as Float32Array;
  const own = part(1, [6], 5);
  const index = Int32Array.of(4, 5, 1);
  const [exact] = gatherPositions([[own]], index, [3]) as [Tensor];
  const [rounded] = gatherPositions([[own]], index, [3], 'bfloat16') as [Tensor];
  const values = valuesOf(rounded);
  // To the nearest of those with eight bits.
  exact.dataSync().forEach((value, i) => {
    const step = 2 ** (Math.floor(Math.log2(value)) - 7);
    expect(values[i]! % step).toBe(0);
    expect(Math.abs(values[i]! - value)).toBeLessThanOrEqual(step / 2);
  });
  const [mixed] = gatherPositions([[rounded, own]], Int32Array.of(2, 3 + 4, 0), [3], 'bfloat16') as [Tensor];
  const row = (head: number, at: number) => [
    ...values.subarray((head * 3 + at) * 5, (head * 3 + at + 1) * 5),
  ];
  const want = Array.from({ length: HEADS }, (_, head) => [row(head, 2), row(head, 0), row(head, 0)]);
  expect([...valuesOf(mixed)]).toEqual(want.flat(2));
});

test('refuses positions that are not there, and parts that do not fit each other', () => {
  const gather = (parts: Tensor[], index: number[], storage: RowStorage = 'float32') =>
    gatherRows([parts], Int32Array.from(index), [index.length], storage);
  const own = part(1, [4], 3);
  expect(() => gather([own], [0, 4])).toThrow(/row 4 is not among 4/);
  expect(() => gather([own], [-1])).toThrow(/row -1/);
  expect(() => gather([own, part(2, [4], 5)], [0])).toThrow(/like the others/);
  expect(() => gather(gather([own], [0, 1], 'bfloat16'), [0])).toThrow(/not float32/);
});

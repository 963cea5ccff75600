import { expect, test } from 'vitest';
import { installAddon } from '../backend.ts';
import { filledTensor } from '../filled-tensor.ts';
import { prepareTensorflow } from '../install/prepare.ts';
import { type Tensor, tf } from '../tf.ts';
import { compile } from './compile.ts';

const { addonPath } = await prepareTensorflow();
installAddon(addonPath!);

/** Odd sizes, so that every tail of the native loops runs. */
const IN = 577;
const OUT = 101;

const product = (name: string, xla: boolean) =>
  compile(
    name,
    ({ x, w }: { x: Tensor; w: Tensor }) => ({ y: tf.matMul(x as never, w as never, false, true) as Tensor }),
    { xla },
  );

/** Random values that bfloat16 holds exactly, so that only the order of sums differs. */
function matrices(seed: number) {
  const values = tf.randomUniform([OUT, IN], -1, 1, 'float32', seed).dataSync() as Float32Array;
  const bits = Uint16Array.from(new Uint32Array(values.buffer), (word) => word >>> 16);
  const rounded = new Float32Array(Uint32Array.from(bits, (word) => word << 16).buffer);
  return {
    wide: tf.tensor2d(rounded, [OUT, IN]) as Tensor,
    narrow: filledTensor('bfloat16', [OUT, IN], (stored) => stored.set(bits)),
  };
}

/** x Wᵀ summed in float64. */
function exact(x: Tensor, w: Tensor): number[] {
  const [a, b] = [x.dataSync(), w.dataSync()];
  return Array.from({ length: x.shape[0]! * OUT }, (_, i) => {
    const [row, column] = [Math.floor(i / OUT) * IN, (i % OUT) * IN];
    let sum = 0;
    for (let k = 0; k < IN; k++) sum += a[row + k]! * b[column + k]!;
    return sum;
  });
}

test.each([false, true])('products of few rows are exact up to rounding, XLA: %s', (xla) => {
  const run = product('skinny', xla);
  const { wide, narrow } = matrices(7);
  for (const rows of [1, 2, 4, 7, 33, 64]) {
    // Another seed than that of the matrix, a row of which would else meet itself.
    const x = tf.randomUniform([rows, IN], -1, 1, 'float32', 100 + rows) as Tensor;
    const expected = exact(x, wide);
    for (const w of [wide, narrow]) {
      const y = run({ x, w }).y;
      expect(y.shape).toEqual([rows, OUT]);
      const difference = y.dataSync().map((value, i) => Math.abs(value - expected[i]!));
      expect(Math.max(...difference)).toBeLessThan(2e-5);
    }
  }
});

test('a row’s product does not depend on the rows beside it, nor on XLA', () => {
  const { narrow: w } = matrices(8);
  const x = tf.randomUniform([9, IN], -1, 1, 'float32', 3) as Tensor;
  const all = product('all', false)({ x, w }).y.dataSync();
  for (const row of [0, 3, 8]) {
    const alone = product('alone', true)({ x: tf.slice(x, [row, 0], [1, IN]), w }).y.dataSync();
    expect([...alone]).toEqual([...all.slice(row * OUT, (row + 1) * OUT)]);
  }
});

test('many rows, and a matrix that is not transposed, are multiplied as before', () => {
  const x = tf.randomUniform([65, IN], -1, 1, 'float32', 1) as Tensor;
  const { wide } = matrices(9);
  const run = compile('other', ({ x: a, w }: { x: Tensor; w: Tensor }) => ({
    tall: tf.matMul(a as never, w as never, false, true) as Tensor,
    back: tf.matMul(tf.slice(a, [0, 0], [3, OUT]) as never, w as never) as Tensor,
  }));
  const { tall, back } = run({ x, w: wide });
  const expected = [
    tf.matMul(x as never, wide as never, false, true),
    tf.matMul(tf.slice(x, [0, 0], [3, OUT]) as never, wide as never),
  ];
  [tall, back].forEach((y, i) => {
    const want = expected[i]!.dataSync();
    y.dataSync().forEach((value, at) => {
      expect(Math.abs(value - want[at]!)).toBeLessThan(2e-5);
    });
  });
});

import { expect, test } from 'vitest';
import { installAddon } from './backend.ts';
import { compile } from './compile/compile.ts';
import { compileVjp } from './compile/compile-vjp.ts';
import { filledTensor } from './filled-tensor.ts';
import { prepareTensorflow } from './install/prepare.ts';
import { quantiseRows, SCALE_BYTES } from './int8.ts';
import { type Tensor, tf } from './tf.ts';

const { addonPath } = await prepareTensorflow();
installAddon(addonPath!);

const [OUT, IN] = [201, 305];

function weights(seed: number, shape: number[] = [OUT, IN]) {
  const values = tf.randomNormal(shape, 0, 1, 'float32', seed).dataSync() as Float32Array;
  const packed = quantiseRows(values, IN);
  return { values, packed, tensor: filledTensor('int8', shape, (stored) => stored.set(packed)) };
}

/** What the packed bytes stand for. */
function decoded(packed: Int8Array): Float32Array {
  const stored = IN + SCALE_BYTES;
  const rows = packed.length / stored;
  const view = new DataView(packed.buffer);
  return Float32Array.from({ length: rows * IN }, (_, i) => {
    const row = Math.floor(i / IN);
    return packed[row * stored + (i % IN)]! * view.getFloat32(row * stored + IN, true);
  });
}

const largest = (a: ArrayLike<number>, b: ArrayLike<number>) =>
  Math.max(...Array.from(a, (value, i) => Math.abs(value - b[i]!)));

test('a value errs by half a step of its row at most, and rows of zeros stay zero', () => {
  const { values, packed } = weights(1);
  const back = decoded(packed);
  for (let row = 0; row < OUT; row++) {
    const own = values.subarray(row * IN, (row + 1) * IN);
    const step = Math.max(...own.map(Math.abs)) / 127;
    expect(largest(own, back.subarray(row * IN, (row + 1) * IN))).toBeLessThanOrEqual(step * 0.5001);
  }
  expect([...quantiseRows(new Float32Array(IN), IN)].every((byte) => byte === 0)).toBe(true);
});

test.each([
  [3, false],
  [3, true],
  [100, false],
])('products of %i rows use the values that the bytes stand for, XLA: %s', (rows, xla) => {
  const { packed, tensor } = weights(2);
  const x = tf.randomNormal([rows, IN], 0, 1, 'float32', 3) as Tensor;
  const run = compile(
    'product',
    ({ x: a, w }: { x: Tensor; w: Tensor }) => ({
      y: tf.matMul(a as never, w as never, false, true) as Tensor,
    }),
    { xla },
  );
  const wide = tf.tensor2d(decoded(packed), [OUT, IN]);
  const want = tf.matMul(x as never, wide as never, false, true).dataSync();
  expect(largest(run({ x, w: tensor }).y.dataSync(), want)).toBeLessThan(1e-4);
});

test('gradients, picked rows and single matrices of a stack see the same values', () => {
  const { packed, tensor } = weights(4);
  const wide = tf.tensor2d(decoded(packed), [OUT, IN]) as Tensor;
  const x = tf.randomNormal([5, IN], 0, 1, 'float32', 5) as Tensor;
  const vjp = compileVjp(
    'product',
    ({ x: a, w }: { x: Tensor; w: Tensor }) => tf.matMul(a as never, w as never, false, true) as Tensor,
    ({ x: a }) => [a],
    { residuals: 'save' },
  );
  const dy = tf.randomNormal([5, OUT], 0, 1, 'float32', 6) as Tensor;
  const { residuals } = vjp.forward({ x, w: tensor });
  const [dx] = vjp.backward({ x, w: tensor }, residuals, dy);
  expect(largest(dx!.dataSync(), tf.matMul(dy as never, wide as never).dataSync())).toBeLessThan(1e-4);

  const stack = weights(7, [3, OUT, IN]);
  const picks = compile('picks', ({ table, many }: { table: Tensor; many: Tensor }) => ({
    rows: tf.gather(table, tf.tensor1d([4, 0, 200], 'int32')) as Tensor,
    second: tf.mul(tf.unstack(many)[1] as Tensor, 1) as Tensor,
    columns: tf.slice(table, [0, 3], [OUT, 2]) as Tensor,
  }))({ table: tensor, many: stack.tensor });
  expect(largest(picks.rows.dataSync(), tf.gather(wide, tf.tensor1d([4, 0, 200], 'int32')).dataSync())).toBe(
    0,
  );
  expect(largest(picks.second.dataSync(), decoded(stack.packed).subarray(OUT * IN, 2 * OUT * IN))).toBe(0);
  expect(largest(picks.columns.dataSync(), tf.slice(wide, [0, 3], [OUT, 2]).dataSync())).toBe(0);
});

import { expect, test } from 'vitest';
import { installAddon } from './backend.ts';
import { compile } from './compile/compile.ts';
import { compileVjp } from './compile/compile-vjp.ts';
import { filledTensor } from './filled-tensor.ts';
import { groupedMatMul } from './grouped-matmul.ts';
import { prepareTensorflow } from './install/prepare.ts';
import { type Tensor, tf } from './tf.ts';

const { addonPath } = await prepareTensorflow();
installAddon(addonPath!);

const IN = 5;
const OUT = 3;
const GROUPS = 4;

/** The same by picking each row's matrix, which tfjs can do and differentiate. */
function reference(x: Tensor, matrices: Tensor, groupOfRow: number[], transposed: boolean): Tensor {
  const picked = tf.gather(matrices, tf.tensor1d(groupOfRow, 'int32'));
  return tf.squeeze(tf.matMul(tf.expandDims(x, 1) as never, picked as never, false, transposed), [1]);
}

function expectClose(a: Tensor, b: Tensor): void {
  expect(a.shape).toEqual(b.shape);
  const want = b.dataSync();
  a.dataSync().forEach((value, i) => {
    expect(Math.abs(value - (want[i] as number))).toBeLessThan(1e-5);
  });
}

const cases = [
  [2, 0, 4, 1],
  [0, 0, 7, 0],
  [1, 2, 2, 2],
].flatMap((sizes) => [true, false].map((transposed) => ({ sizes, transposed })));

test.each(cases)('rows $sizes, transposed $transposed: values and gradients, for each size anew', (given) => {
  const { sizes, transposed } = given;
  const x = tf.randomNormal([7, IN]);
  const matrices = tf.randomNormal(transposed ? [GROUPS, OUT, IN] : [GROUPS, IN, OUT]);
  const dy = tf.randomNormal([7, OUT]);
  const groupOfRow = sizes.flatMap((size, group) => new Array<number>(size).fill(group));
  const inputs = { x, matrices, sizes: tf.tensor1d(sizes, 'int32') as Tensor };
  const run = (i: typeof inputs) => groupedMatMul(i.x, i.matrices, i.sizes, { transposed, trainable: true });

  expectClose(compile('grouped', (i: typeof inputs) => ({ y: run(i) }))(inputs).y, run(inputs));
  expectClose(run(inputs), reference(x, matrices, groupOfRow, transposed));
  const vjp = compileVjp('grouped', run, (i) => [i.x, i.matrices]);
  const { output, residuals } = vjp.forward(inputs);
  expectClose(output, run(inputs));
  const eager = tf.grads((x: Tensor, m: Tensor) => {
    const sizes = tf.cast(inputs.sizes, 'int32');
    return run({ x, matrices: m, sizes });
  })([x, matrices], dy);
  const want = tf.grads((x: Tensor, m: Tensor) => reference(x, m, groupOfRow, transposed))([x, matrices], dy);
  vjp.backward(inputs, residuals, dy).forEach((gradient, i) => {
    expectClose(gradient, want[i]!);
    expectClose(eager[i]!, want[i]!);
  });
});

test('frozen matrices have no gradient, and rows keep theirs', () => {
  const x = tf.randomNormal([4, IN]);
  const matrices = tf.randomNormal([GROUPS, OUT, IN]);
  const sizes = tf.tensor1d([1, 3, 0, 0], 'int32');
  const dy = tf.randomNormal([4, OUT]);
  const options = { transposed: true, trainable: false };
  const f = compileVjp(
    'grouped_frozen',
    (i: { x: Tensor; matrices: Tensor; sizes: Tensor }) =>
      groupedMatMul(tf.mul(i.x, 2), i.matrices, i.sizes, options),
    (i) => [i.x],
  );
  const inputs = { x, matrices, sizes };
  const { residuals } = f.forward(inputs);
  const want = tf.grad((rows: Tensor) => reference(tf.mul(rows, 2), matrices, [0, 1, 1, 1], true))(x, dy);
  expectClose(f.backward(inputs, residuals, dy)[0]!, want);
});

test.each(['float32', 'bfloat16'])('few rows by large %s matrices, as decoding has them', (kept) => {
  const [wide, out] = [256, 160];
  const x = tf.randomNormal([7, wide]);
  const bits = new Uint16Array(GROUPS * out * wide).map((_, i) => 0x3c00 + ((i * 7919) % 512));
  const values = Float32Array.from(bits, (_, i) => {
    const word = Uint32Array.of(bits[i]! << 16);
    return new Float32Array(word.buffer)[0]!;
  });
  const exact = tf.tensor(values, [GROUPS, out, wide]);
  const matrices =
    kept === 'bfloat16' ? filledTensor('bfloat16', [GROUPS, out, wide], (stored) => stored.set(bits)) : exact;
  const f = compile('grouped_few', (i: { x: Tensor; matrices: Tensor; sizes: Tensor }) => ({
    y: groupedMatMul(i.x, i.matrices, i.sizes, { transposed: true, trainable: false }),
  }));
  const { y } = f({ x, matrices, sizes: tf.tensor1d([0, 5, 0, 2], 'int32') });
  expectClose(y, reference(x, exact, [1, 1, 1, 1, 1, 3, 3], true));
});

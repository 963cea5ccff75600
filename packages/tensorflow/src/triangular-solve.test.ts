import { expect, test } from 'vitest';
import { installAddon } from './backend.ts';
import { compile } from './compile/compile.ts';
import { compileVjp } from './compile/compile-vjp.ts';
import { prepareTensorflow } from './install/prepare.ts';
import { loadTensorflow } from './load.ts';
import { type Tensor, tf } from './tf.ts';
import { triangularSolve } from './triangular-solve.ts';

const SHAPE = [2, 3, 5, 5];

function expectClose(a: Tensor, b: Tensor): void {
  expect(a.shape).toEqual(b.shape);
  const want = b.dataSync();
  a.dataSync().forEach((value, i) => {
    expect(Math.abs(value - (want[i] as number))).toBeLessThan(1e-4);
  });
}

function problem() {
  const below = tf.linalg.bandPart(tf.mul(tf.randomNormal(SHAPE), 0.5), -1, 0);
  const diagonal = tf.linalg.bandPart(tf.onesLike(below), 0, 0);
  const lower = tf.add(tf.sub(below, tf.linalg.bandPart(below, 0, 0)), tf.mul(diagonal, 2)) as Tensor;
  const x = tf.randomNormal([2, 3, 5, 4]) as Tensor;
  return { lower, x, right: tf.matMul(lower as never, x as never) as Tensor, dy: tf.randomNormal(x.shape) };
}

/** Gradients of a loss Σ dy · X, by moving each equation's sides a little. */
function numericGradients({ lower, right, dy }: ReturnType<typeof problem>): Tensor[] {
  const loss = (l: Tensor, r: Tensor) => tf.sum(tf.mul(triangularSolve(l, r), dy)).dataSync()[0]!;
  const step = 1e-2;
  return [lower, right].map((tensor, which) => {
    const values = tensor.dataSync().slice();
    const gradient = values.map((value, i) => {
      const sides = [value + step, value - step].map((moved) => {
        const changed = tf.tensor(values.with(i, moved), tensor.shape);
        return which === 0 ? loss(changed, right) : loss(lower, changed);
      });
      return (sides[0]! - sides[1]!) / (2 * step);
    });
    return tf.tensor(gradient, tensor.shape);
  });
}

test('solves without TensorFlow, row by row', async () => {
  await loadTensorflow({ kind: 'wasm', gpu: false, notes: [] });
  expect(tf.getBackend()).toBe('wasm');
  const { lower, x, right, dy } = problem();
  expectClose(triangularSolve(lower, right), x);
  const [, dRight] = tf.grads((l: Tensor, r: Tensor) => triangularSolve(l, r))([lower, right], dy);
  expectClose(tf.matMul(lower as never, dRight as never, true, false), dy);
});

test('solves with TensorFlow, eagerly and compiled, with gradients', async () => {
  const { addonPath } = await prepareTensorflow();
  installAddon(addonPath!);
  const given = problem();
  const { lower, x, right, dy } = given;
  const run = (i: { lower: Tensor; right: Tensor }) => triangularSolve(i.lower, i.right);
  const inputs = { lower, right };
  expectClose(run(inputs), x);
  expectClose(compile('solve', (i: typeof inputs) => ({ y: run(i) }))(inputs).y, x);
  const vjp = compileVjp('solve', run, (i) => [i.lower, i.right]);
  const { residuals } = vjp.forward(inputs);
  const [dLower, dRight] = vjp.backward(inputs, residuals, dy);
  const [wantLower, wantRight] = numericGradients(given);
  const inMask = (t: Tensor) => tf.linalg.bandPart(t, -1, 0);
  for (const [a, b] of [
    [inMask(dLower!), inMask(wantLower!)],
    [dRight!, wantRight!],
  ] as const) {
    const scale = tf.max(tf.abs(b)).dataSync()[0]!;
    expect(tf.max(tf.abs(tf.sub(a, b))).dataSync()[0]! / scale).toBeLessThan(5e-3);
  }
});

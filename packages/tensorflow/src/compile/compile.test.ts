import { expect, test } from 'vitest';
import { installAddon, numDeviceTensors } from '../backend.ts';
import { prepareTensorflow } from '../install/prepare.ts';
import { type Tensor, tf } from '../tf.ts';
import { compile } from './compile.ts';
import { compileVjp } from './compile-vjp.ts';

const { addonPath } = await prepareTensorflow();
installAddon(addonPath!);

const mlp = ({ x, w, b }: { x: Tensor; w: Tensor; b: Tensor }) => {
  const h = tf.matMul(x as never, w as never, false, true);
  return tf.matMul(tf.mul(h, tf.sigmoid(h)) as never, b as never) as Tensor;
};
const close = (a: Tensor, b: Tensor) => {
  const x = a.dataSync();
  b.dataSync().forEach((v, i) => {
    expect(Math.abs(v - (x[i] as number))).toBeLessThan(1e-5 * (1 + Math.abs(v)));
  });
};

test('a compiled function equals the eager one, at several shapes and under XLA', () => {
  const w = tf.randomNormal([5, 4]);
  const b = tf.randomNormal([5, 3]);
  for (const xla of [false, true]) {
    const compiled = compile(
      'mlp',
      (i: { x: Tensor; w: Tensor; b: Tensor }) => ({ y: mlp(i), twice: tf.mul(i.x, 2) }),
      { xla },
    );
    for (const rows of [1, 7, 7]) {
      const x = tf.randomNormal([rows, 4]);
      const { y, twice } = compiled({ x, w, b });
      close(y, mlp({ x, w, b }));
      close(twice, tf.mul(x, 2));
    }
  }
});

test.each(['save', 'recompute'] as const)('backward with residuals: %s equals tf.grads', (residuals) => {
  const x = tf.randomNormal([7, 4]);
  const w = tf.randomNormal([5, 4]);
  const b = tf.randomNormal([5, 3]);
  const dy = tf.randomNormal([7, 3]);
  const f = compileVjp('mlp', mlp, (i) => [i.x, i.b], { residuals });
  const { output, residuals: kept } = f.forward({ x, w, b });
  close(output, mlp({ x, w, b }));
  const grads = f.backward({ x, w, b }, kept, dy);
  const want = tf.grads((x: Tensor, b: Tensor) => mlp({ x, w, b }))([x, b], dy);
  grads.forEach((g, i) => {
    close(g, want[i]!);
  });
  expect(kept.length).toBe(residuals === 'save' ? 1 : 0);
});

test('nothing is left behind after repeated calls', () => {
  const x = tf.randomNormal([7, 4]);
  const w = tf.randomNormal([5, 4]);
  const b = tf.randomNormal([5, 3]);
  const dy = tf.randomNormal([7, 3]);
  const f = compileVjp('mlp', mlp, (i) => [i.x]);
  const run = () => {
    const { output, residuals } = f.forward({ x, w, b });
    tf.dispose([output, ...residuals, ...f.backward({ x, w, b }, residuals, dy)]);
  };
  run();
  const tensors = tf.memory().numTensors;
  const handles = numDeviceTensors();
  for (let i = 0; i < 20; i++) run();
  expect(tf.memory().numTensors).toBe(tensors);
  expect(numDeviceTensors()).toBe(handles);
});

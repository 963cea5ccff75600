import { expect, test } from 'vitest';
import { installAddon } from './backend.ts';
import { fusedHead } from './fused-head.ts';
import { prepareTensorflow } from './install/prepare.ts';
import { dropAdapter, keepAdapter } from './kept-adapters.ts';
import { tf } from './tf.ts';

const { addonPath } = await prepareTensorflow();
installAddon(addonPath!);

const NO_DRAW = { temperatures: Float32Array.of(1), draws: Float64Array.of(-1) };

/** Logits of one row whose norm leaves it as it is. */
function logitsWith(adapter: number): number[] {
  const { logits } = fusedHead({
    x: tf.tensor2d([[1, -1]]),
    norm: tf.tensor1d([1, 1]),
    weight: tf.tensor2d([
      [1, 0],
      [0, 1],
      [1, 1],
    ]),
    normEps: 0,
    bfloat16Products: false,
    adapters: Int32Array.of(adapter),
    adapterOfRow: Int32Array.of(0),
    ...NO_DRAW,
  });
  return [...logits.dataSync()];
}

const head = () => ({ a: tf.tensor2d([[2, 1]]), b: tf.tensor2d([[1], [3], [1.001]]) });

test('an adapter is kept without its tensors, until it is dropped', () => {
  const pair = head();
  const number = keepAdapter({ layers: [], head: pair, scale: 0.5, narrow: false });
  tf.dispose(Object.values(pair));
  // u = 0.5 (2 - 1)
  expect(logitsWith(number)).toEqual([1.5, 0.5, Math.fround(0.5 * Math.fround(1.001))]);
  dropAdapter(number);
  expect(() => logitsWith(number)).toThrow(/adapter \d+ is not kept/);
});

test('a narrow one is rounded to bfloat16', () => {
  const number = keepAdapter({ layers: [], head: head(), scale: 0.5, narrow: true });
  expect(logitsWith(number)).toEqual([1.5, 0.5, 0.5]);
  dropAdapter(number);
});

test('one of other sizes is refused', () => {
  const wide = { a: tf.tensor2d([[1, 2, 3]]), b: tf.tensor2d([[1], [1], [1]]) };
  const number = keepAdapter({ layers: [], head: wide, scale: 1, narrow: false });
  expect(() => logitsWith(number)).toThrow(/of another model/);
  dropAdapter(number);
});

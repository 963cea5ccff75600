import { type Tensor, tf } from '@anneal/tensorflow';
import { expect, test } from 'vitest';
import { maxAbs, maxDifference } from '../testing/fixtures.ts';
import '../testing/tensorflow.ts';
import { attend, attendCausally, causalMaskValues } from './attention.ts';

/** Not a multiple of a block's queries. */
const TIME = 600;

test.each([
  ['all that came before', TIME, false],
  ['a window that begins in an earlier block', 300, false],
  ['a sink', TIME, true],
] as const)('queries in blocks attend to %s as all at once do, gradients too', (_, window, withSink) => {
  const random = (heads: number, dim: number, seed: number) =>
    tf.randomNormal([2, heads, TIME, dim], 0, 1, 'float32', seed) as Tensor;
  const [q, k, v, dy] = [random(4, 8, 1), random(2, 8, 2), random(2, 6, 3), random(4, 6, 4)];
  const mask = tf.tensor4d(causalMaskValues(TIME, window), [1, 1, TIME, TIME]);
  const sinks = withSink ? tf.tensor1d([0.5, -1, 2, 0]) : undefined;
  const [blocks, whole] = [attendCausally, attend].map((fn) => {
    const run = tf.valueAndGrads((...[a, b, c]) => fn(a!, b!, c!, mask, 0.3, sinks));
    const { value, grads } = run([q, k, v], dy);
    return [value, ...grads].map((tensor) => tensor.dataSync() as Float32Array);
  });
  blocks!.forEach((values, i) => {
    expect(maxDifference(values, whole![i]!) / maxAbs(whole![i]!)).toBeLessThan(1e-5);
  });
});

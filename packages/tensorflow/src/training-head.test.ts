import { expect, test } from 'vitest';
import { installAddon } from './backend.ts';
import { prepareTensorflow } from './install/prepare.ts';
import { tf } from './tf.ts';
import { trainingHead } from './training-head.ts';

const { addonPath } = await prepareTensorflow();
installAddon(addonPath!);

const HIDDEN = 16384;
/** As models have it: one value far larger than the others, early in the sums. */
const LARGE = 3e4;

test('what is added beside a far larger term keeps its value', () => {
  const h = Float32Array.from({ length: HIDDEN }, (_, i) => (i === 1 ? LARGE : Math.sin(i)));
  const words = [0.37, 0.51].map((by) =>
    Float32Array.from({ length: HIDDEN }, (_, i) => (i === 1 ? 1 : Math.sin(i * by) / 16)),
  );
  // The large term is the same in both words, and in no difference of theirs.
  const [first, second] = words.map((word) =>
    word.reduce((sum, value, i) => (i === 1 ? sum : sum + value * h[i]!), 0),
  ) as [number, number];
  const { logprobs } = trainingHead({
    h: tf.tensor2d(h, [1, HIDDEN]),
    weight: tf.stack(words.map((word) => tf.tensor1d(word))),
    lora: undefined,
    bfloat16Products: false,
    targets: Int32Array.of(0, 1),
    k: 2,
  });
  const total = Math.log(Math.exp(first) + Math.exp(second));
  expect(Math.abs(logprobs[0]! - (first - total))).toBeLessThan(0.05);
  expect(Math.abs(logprobs[1]! - (second - total))).toBeLessThan(0.05);
});

/** The head of training by one native call against the compiled one, which other tests hold against torch. */

import type { MatmulPrecision } from '@anneal/tensorflow';
import { type Tensor, tf } from '@anneal/tensorflow';
import { expect, test } from 'vitest';
import type { LoraAdapter } from '../lora/adapter.ts';
import { BaseModel } from '../models/base-model.ts';
import type { Precision } from '../models/weight-source.ts';
import { archFixture } from '../testing/fixtures.ts';
import '../testing/tensorflow.ts';
import { waveAdapter } from '../testing/wave-adapter.ts';
import { compiledHead, type HeadRows, type HeadRunner, headRunner } from './head-runner.ts';

const FOLDER = archFixture('llama3').modelDir;
/** One target twice in a row, and padding. */
const [COUNT, PADDED, K] = [150, 256, 3];

function rowsOf({ config: { hiddenSize, vocabSize } }: BaseModel): HeadRows {
  const values = Float32Array.from({ length: PADDED * hiddenSize }, (_, i) => Math.sin(i * 0.73) * 3);
  const targets = Int32Array.from(
    { length: PADDED * K },
    (_, i) => ((i - (i % 3 === 1 ? 1 : 0)) * 31) % vocabSize,
  );
  return { h: tf.tensor2d(values, [PADDED, hiddenSize]), count: COUNT, targets, k: K };
}

const dlogprobs = Float32Array.from({ length: COUNT * K }, (_, i) => (i % 7 === 0 ? 0 : Math.cos(i)));

interface Made {
  logprobs: Float32Array;
  grads: Float32Array[];
}

function through(runner: HeadRunner, base: BaseModel, adapter: LoraAdapter | undefined): Made {
  const rows = rowsOf(base);
  const scored = runner.logprobs(rows, adapter);
  const { logprobs, dh, adapterGrads } = runner.gradients(rows, adapter, dlogprobs);
  expect(logprobs).toEqual(scored);
  const grads = [dh, ...adapterGrads].map((tensor: Tensor) => tensor.dataSync() as Float32Array);
  return { logprobs, grads };
}

/** Differences of logprobs and of gradients, as shares of what is expected. */
function distances(made: Made, expected: Made) {
  const norm = (values: Float32Array) => Math.hypot(...values);
  const share = (a: Float32Array, b: Float32Array) => norm(a.map((value, i) => value - b[i]!)) / norm(b);
  const grads = made.grads.map((values, i) => share(values, expected.grads[i]!));
  return { logprobs: share(made.logprobs, expected.logprobs), grads: Math.max(...grads) };
}

const load = (precision: Precision, products: MatmulPrecision = 'fp32') =>
  BaseModel.load(FOLDER, precision, products);

test.each<Precision>(['fp32', 'bf16', 'int8'])('weights in %s, with and without an adapter', (precision) => {
  const base = load(precision);
  for (const adapter of [undefined, waveAdapter(base, { rank: 3, trainUnembed: true }, 1 / 4)]) {
    const made = through(headRunner(base), base, adapter);
    expect(made.grads).toHaveLength(adapter ? 3 : 1);
    const { logprobs, grads } = distances(made, through(compiledHead(base), base, adapter));
    expect(logprobs).toBeLessThan(2e-6);
    expect(grads).toBeLessThan(2e-5);
    // Padding has no gradient.
    expect(made.grads[0]!.subarray(COUNT * base.config.hiddenSize).every((value) => value === 0)).toBe(true);
  }
});

test('products in bfloat16 differ from those in float32 as those of TensorFlow do, logprobs by less', () => {
  const [narrow, wide] = [load('bf16', 'bf16'), load('bf16')];
  const adapter = waveAdapter(narrow, { rank: 4, trainUnembed: true }, 1 / 4);
  const exact = through(compiledHead(wide), wide, adapter);
  const native = distances(through(headRunner(narrow), narrow, adapter), exact);
  const compiled = distances(through(compiledHead(narrow), narrow, adapter), exact);
  expect(native.logprobs).toBeGreaterThan(2e-5);
  expect(native.logprobs).toBeLessThan(compiled.logprobs);
  // Gradients of logits are rounded to bfloat16 by both, which is most of the distance: which is nearer differs by processor.
  expect(native.grads).toBeLessThan(1.05 * compiled.grads);
});

test('a row that is not a number makes no number of its logprobs, and only of those', () => {
  const base = load('fp32');
  const rows = rowsOf(base);
  const values = rows.h.dataSync().slice();
  values[5 * base.config.hiddenSize] = Number.NaN;
  const h = tf.tensor2d(values, rows.h.shape as [number, number]);
  const logprobs = headRunner(base).logprobs({ ...rows, h }, undefined);
  logprobs.forEach((logprob, i) => {
    expect(Number.isNaN(logprob)).toBe(Math.floor(i / K) === 5);
  });
});

test('a certain token has a logprob of at most zero', () => {
  const base = load('fp32');
  const { hiddenSize } = base.config;
  const row = tf.mul(tf.slice(base.head, [7, 0], [1, hiddenSize]), 1e4);
  const h = tf.tile(row, [128, 1]) as Tensor;
  const targets = new Int32Array(128).fill(7);
  const logprobs = headRunner(base).logprobs({ h, count: 1, targets, k: 1 }, undefined);
  expect(logprobs[0]).toBeLessThanOrEqual(0);
  expect(logprobs[0]).toBeGreaterThan(-1e-3);
});

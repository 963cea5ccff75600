/** The head by one native call against the compiled one, which other tests hold against torch, and draws against sums in float64. */
import { type Tensor, tf } from '@anneal/tensorflow';
import { expect, test } from 'vitest';
import type { LoraAdapter } from '../lora/adapter.ts';
import { BaseModel } from '../models/base-model.ts';
import type { Precision } from '../models/weight-source.ts';
import { archFixture } from '../testing/fixtures.ts';
import '../testing/tensorflow.ts';
import { waveAdapter } from '../testing/wave-adapter.ts';
import { BatchAdapters } from './batch-adapters.ts';
import { Decoder } from './decoder.ts';
import type { HeadOutput, HeadRequest } from './head-outputs.ts';

const FOLDER = archFixture('llama3').modelDir;

/** One of rank 4 twice, the base model, one of rank 3, and one that leaves the head alone. */
function adaptersOf(base: BaseModel): (LoraAdapter | undefined)[] {
  const make = (rank: number, trainUnembed: boolean) => waveAdapter(base, { rank, trainUnembed }, 1 / 4);
  const first = make(4, true);
  return [first, first, undefined, make(3, true), make(2, false)];
}

function hiddenOf(base: BaseModel, rows: number): Tensor {
  const { hiddenSize } = base.config;
  const values = Float32Array.from({ length: rows * hiddenSize }, (_, i) => Math.sin(i * 0.37) * 2);
  return tf.tensor3d(values, [rows, 1, hiddenSize]);
}

const GREEDY: HeadRequest = {
  temperature: Float32Array.of(1, 0.5, 2, 1, 1.5),
  draws: new Array(5).fill(undefined),
  candidates: 7,
};

const drawing = (uniforms: (number | undefined)[]): HeadRequest => ({
  ...GREEDY,
  draws: uniforms.map((uniform) => (uniform === undefined ? undefined : { uniform, seeds: [1, 2] })),
});

function headOf(base: BaseModel, rows: (LoraAdapter | undefined)[], request: HeadRequest, fuse = true) {
  const decoder = new Decoder(base, { xla: false, fuse });
  const adapters = new BatchAdapters(base, decoder);
  const x = hiddenOf(base, rows.length);
  const out = decoder.head(x, adapters.of(rows), request);
  const logits = out.logits.arraySync() as number[][];
  tf.dispose([x, out.logits]);
  adapters.dispose();
  decoder.dispose();
  return { ...out, logits };
}

const farthest = (found: ArrayLike<number>, want: ArrayLike<number>) =>
  Math.max(...Array.from(found, (value, i) => Math.abs(value / want[i]! - 1)));

test.each<Precision>(['fp32', 'bf16', 'int8'])('reads the same off the logits, in %s', (precision) => {
  const base = BaseModel.load(FOLDER, precision, 'fp32');
  const rows = adaptersOf(base);
  const fused = headOf(base, rows, GREEDY);
  const compiled = headOf(base, rows, GREEDY, false);
  expect(fused.argmax).toEqual(compiled.argmax);
  expect(fused.topIds).toEqual(compiled.topIds);
  for (const name of ['argmaxLogit', 'logTotal', 'mass', 'topLogits'] as const)
    expect(farthest(fused[name], compiled[name])).toBeLessThan(2e-5);
  // Adapters of the head do something, where there are any.
  const plain = headOf(
    base,
    rows.map(() => undefined),
    GREEDY,
  );
  expect(plain.logits[4]).toEqual(fused.logits[4]);
  expect(plain.logits[3]).not.toEqual(fused.logits[3]);
});

test('draws the first id at which the running sum passes the number drawn', () => {
  const base = BaseModel.load(FOLDER, 'fp32');
  const rows = adaptersOf(base);
  const seen = new Set<number>();
  for (const uniform of [0, 1e-9, 0.1, 0.37, 0.5, 0.83, 0.999, 1 - 2 ** -53]) {
    const out = headOf(base, rows, drawing([uniform, uniform, undefined, uniform, uniform]));
    expect(out.drawn[2]).toBe(out.argmax[2]);
    for (const row of [0, 1, 3, 4]) {
      const [logits, id] = [out.logits[row]!, out.drawn[row]!];
      expect(out.drawnLogit[row]).toBe(logits[id]);
      const [before, after] = sharesAround(logits, GREEDY.temperature[row]!, id);
      expect(uniform).toBeGreaterThanOrEqual(before - 1e-6);
      expect(uniform).toBeLessThan(after + 1e-6);
      seen.add(id);
    }
  }
  expect(seen.size).toBeGreaterThan(8);
});

/** Shares of all ids before `id`, and of those up to it, of softmax(logits / temperature). */
function sharesAround(logits: number[], temperature: number, id: number): [number, number] {
  const most = Math.max(...logits);
  const masses = logits.map((logit) => Math.exp((logit - most) / temperature));
  const sum = (values: number[]) => values.reduce((total, value) => total + value, 0);
  return [sum(masses.slice(0, id)) / sum(masses), sum(masses.slice(0, id + 1)) / sum(masses)];
}

test.each(['fp32', 'bf16'] as const)('a row has the same to the bit alone, by products in %s', (products) => {
  const base = BaseModel.load(FOLDER, 'bf16', products);
  const rows = adaptersOf(base);
  const together = headOf(base, rows, drawing(rows.map(() => 0.6)));
  const first = headOf(base, rows.slice(0, 1), {
    temperature: GREEDY.temperature.slice(0, 1),
    draws: drawing([0.6]).draws,
    candidates: 0,
  });
  const of = ({ drawn, logTotal, mass }: HeadOutput | typeof first) => [drawn[0], logTotal[0], mass[0]];
  expect(of(first)).toEqual(of(together));
  expect(first.logits[0]).toEqual(together.logits[0]);
});

test('a call leaves no tensors behind', () => {
  const base = BaseModel.load(FOLDER, 'fp32');
  const rows = adaptersOf(base);
  headOf(base, rows, GREEDY);
  const before = tf.memory().numTensors;
  headOf(base, rows, GREEDY);
  expect(tf.memory().numTensors).toBe(before);
});

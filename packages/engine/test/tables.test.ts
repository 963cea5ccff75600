/** Optimizer and sampling against the float64 tables of packages/engine/fixtures/tables. */
import { openSafetensors } from '@anneal/safetensors';
import { type Tensor, tf } from '@anneal/tensorflow';
import { expect, test } from 'vitest';
import type { AdamParams } from '../src/engine.ts';
import { BaseModel } from '../src/models/base-model.ts';
import { adamwStep, createAdamState } from '../src/optimizer/adamw.ts';
import { Sampler } from '../src/sampling/sampler.ts';
import { sortedCandidates, truncate } from '../src/sampling/truncate.ts';
import { archFixture, fixturePath, maxDifference, readJson } from '../src/testing/fixtures.ts';
import '../src/testing/tensorflow.ts';
import { HeadPass } from '../src/training/head-pass.ts';

interface OptimTable {
  shapes: Record<string, number[]>;
  steps: { adam_params: Record<string, number>; grad_norm: number }[];
}

const camelCase = (params: Record<string, number>) =>
  Object.fromEntries(
    Object.entries(params).map(([key, value]) => [
      key.replace(/_(\w)/g, (_, c: string) => c.toUpperCase()),
      value,
    ]),
  ) as unknown as AdamParams;

test('AdamW equals float64 over steps with changing settings, clipping on, off and inactive', () => {
  const { shapes, steps } = readJson<OptimTable>(fixturePath('tables/optim.json'));
  const table = openSafetensors(fixturePath('tables/optim.safetensors'));
  const names = Object.keys(shapes);
  const load = (prefix: string) =>
    names.map((name) => tf.tensor(table.readFloat32Sync(`${prefix}.${name}`), shapes[name]!));
  const close = (tensors: Tensor[], prefix: string) =>
    tensors.forEach((tensor, i) => {
      const want = table.readFloat32Sync(`${prefix}.${names[i]}`);
      const scale = Math.max(1, ...want.map(Math.abs));
      expect(maxDifference(tensor.dataSync(), want) / scale, `${prefix}.${names[i]}`).toBeLessThan(1e-5);
    });
  let parameters = load('init');
  const state = createAdamState();
  steps.forEach(({ adam_params, grad_norm }, i) => {
    const t = i + 1;
    const stepped = adamwStep(parameters, load(`${t}.grad`), state, camelCase(adam_params));
    parameters = stepped.parameters!;
    expect(Math.abs(stepped.norm - grad_norm)).toBeLessThan(1e-5 * Math.max(1, grad_norm));
    close(parameters, `${t}.param`);
    close(state.moments!.m, `${t}.m`);
    close(state.moments!.v, `${t}.v`);
  });
});

test('a step without a gradient is one with a gradient of zero, before the first gradient and after it', () => {
  const hyper = { learningRate: 0.1, beta1: 0.9, beta2: 0.95, eps: 1e-8, weightDecay: 0.5, gradClipNorm: 0 };
  const gradient = () => [tf.tensor1d([0.5, -2])];
  const zero = () => [tf.zeros([2])];
  const run = (none: () => Tensor[] | undefined) => {
    const state = createAdamState();
    let parameters: Tensor[] = [tf.tensor1d([1, -3])];
    const seen = [none(), gradient(), none()].map((grads) => {
      const stepped = adamwStep(parameters, grads, state, hyper);
      parameters = stepped.parameters ?? parameters;
      return [...parameters[0]!.dataSync(), stepped.norm];
    });
    return { seen, step: state.step };
  };
  const [left, given] = [run(() => undefined), run(zero)];
  expect(left).toEqual(given);
  expect(left.seen[0]).toEqual([0.95, -2.85, 0].map(Math.fround));
  const state = createAdamState();
  expect(adamwStep(zero(), undefined, state, { ...hyper, weightDecay: 0 }).parameters).toBeUndefined();
  expect(state).toEqual({ step: 1, moments: undefined });
});

interface SamplingTable {
  cases: { key: string; temperature: number; top_k: number; top_p: number }[];
}

test.each(
  readJson<SamplingTable>(fixturePath('tables/sampling.json')).cases.filter(
    ({ temperature }) => temperature > 0,
  ),
)(
  'temperature $temperature, top_k $top_k, top_p $top_p give the distribution of the table',
  ({ key, temperature, top_k, top_p }) => {
    const table = openSafetensors(fixturePath('tables/sampling.safetensors'));
    const [rows, vocab] = table.info('logits').shape as [number, number];
    const logits = table.readFloat32Sync('logits');
    const want = table.readFloat32Sync(key);
    for (let row = 0; row < rows; row++) {
      const candidates = sortedCandidates(logits.subarray(row * vocab, (row + 1) * vocab));
      const best = candidates.logits[0] as number;
      const mass = [...candidates.logits].reduce(
        (sum, logit) => sum + Math.exp((logit - best) / temperature),
        0,
      );
      const { ids, probabilities } = truncate(
        candidates,
        { temperature, topK: top_k, topP: top_p },
        mass,
        vocab,
      )!;
      const got = new Float32Array(vocab);
      ids.forEach((id, i) => {
        got[id] = probabilities[i]!;
      });
      expect(maxDifference(got, want.subarray(row * vocab, (row + 1) * vocab))).toBeLessThan(1e-5);
    }
  },
);

test.each([
  { temperature: 0.8, topK: -1, topP: 1 },
  { temperature: 1.2, topK: 12, topP: 1 },
  { temperature: 1, topK: -1, topP: 0.6 },
])(
  'draws with $temperature, $topK, $topP pass a chi-square test against softmax of the reference logits',
  async (params) => {
    const fixture = archFixture('llama3');
    const { tokens } = fixture.reference.sequences[0]!;
    const base = BaseModel.load(fixture.modelDir, 'auto');
    const options = { maxSlots: 64, kvBudgetBytes: 1e9, prefillTokens: 64, xla: false };
    const sampler = new Sampler(base, new HeadPass(base), {
      ...options,
      tokenizer: () => {
        throw new Error('no stop strings here');
      },
    });
    const counts = new Map<number, number>();
    const draws = 3000;
    for (let group = 0; group < draws / 60; group++) {
      const result = sampler.submit(
        {
          samplerId: 's',
          prompt: Int32Array.from(tokens),
          numSamples: 60,
          params: { maxTokens: 1, seed: BigInt(group), ...params },
          promptLogprobs: false,
          topkPromptLogprobs: 0,
          topkSampleLogprobs: 0,
          promptAltTokensK: 0,
        },
        undefined,
      );
      while (sampler.hasWork) sampler.work();
      for (const { tokens: drawn } of (await result).sequences)
        counts.set(drawn[0]!, (counts.get(drawn[0]!) ?? 0) + 1);
    }
    const logits = fixture.tensors.readFloat32Sync('logits.0').subarray(-base.config.vocabSize);
    const expected = distribution(logits, params);
    for (const id of counts.keys()) expect(expected.has(id), `token ${id} has probability zero`).toBe(true);
    // Rare tokens share one bin, so that every bin expects at least five draws.
    let rest = { seen: 0, wanted: 0 };
    let chiSquare = 0;
    let bins = 0;
    for (const [id, probability] of expected) {
      const wanted = probability * draws;
      const seen = counts.get(id) ?? 0;
      if (wanted < 5) rest = { seen: rest.seen + seen, wanted: rest.wanted + wanted };
      else {
        chiSquare += (seen - wanted) ** 2 / wanted;
        bins++;
      }
    }
    if (rest.wanted > 0) {
      chiSquare += (rest.seen - rest.wanted) ** 2 / rest.wanted;
      bins++;
    }
    // Mean bins - 1, standard deviation √(2 (bins - 1)): five deviations above is one chance in millions.
    expect(chiSquare).toBeLessThan(bins - 1 + 5 * Math.sqrt(2 * (bins - 1)));
  },
);

/** Temperature, top-k and top-p in float64, straight from their definitions. */
function distribution(
  logits: Float32Array,
  { temperature, topK, topP }: { temperature: number; topK: number; topP: number },
): Map<number, number> {
  const sorted = [...logits]
    .map((logit, id) => ({ id, weight: Math.exp(logit / temperature) }))
    .sort((a, b) => b.weight - a.weight);
  const kept = topK > 0 ? sorted.slice(0, topK) : sorted;
  const total = kept.reduce((sum, { weight }) => sum + weight, 0);
  const nucleus: typeof kept = [];
  let mass = 0;
  for (const entry of kept) {
    if (nucleus.length > 0 && mass >= topP * total) break;
    nucleus.push(entry);
    mass += entry.weight;
  }
  return new Map(nucleus.map(({ id, weight }) => [id, weight / mass]));
}

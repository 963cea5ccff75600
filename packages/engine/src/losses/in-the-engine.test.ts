/** Losses on a real model: pairs, references computed by the server, and gradients that do not depend on the passes. */
import { tf } from '@anneal/tensorflow';
import { expect, test } from 'vitest';
import type { EngineDatum, ForwardBackwardRequest } from '../engine.ts';
import { LoraAdapter } from '../lora/adapter.ts';
import { BaseModel } from '../models/base-model.ts';
import { archFixture, loraSpec, maxAbs, maxDifference } from '../testing/fixtures.ts';
import '../testing/tensorflow.ts';
import { Trainer, type TrainerResult } from '../training/trainer.ts';
import { float32 } from './testing.ts';

const fixture = archFixture('llama3');
const base = BaseModel.load(fixture.modelDir, 'fp32');
const file = fixture.lora('r4');
const adapter = LoraAdapter.from(base, loraSpec(), ({ path }) => ({
  a: file.readFloat32Sync(`init.${path}.lora_A.weight`),
  b: file.readFloat32Sync(`init.${path}.lora_B.weight`),
}));

/** log p of the targets by torch: with the adapter, and without. */
const torch = fixture.reference.sequences.map((_, i) => ({
  model: file.readFloat32Sync(`logprobs.${i}`),
  reference: fixture.tensors.readFloat32Sync(`logprobs.${i}`),
}));

/** Two pairs of equal width, so that both fit one pass. */
const ORDER = [2, 0, 1, 2];
const datum = (sequence: number, inputs: Record<string, number[]> = {}): EngineDatum => {
  const { tokens, inputs: given } = fixture.data[sequence]!;
  const named = Object.entries(inputs).map(([name, values]) => [name, float32(values)] as const);
  return { tokens, inputs: { target_tokens: given.target_tokens!, ...Object.fromEntries(named) } };
};

const roomy = new Trainer(base, { activationBudgetBytes: 1e9 });
const cramped = new Trainer(base, { activationBudgetBytes: 1 });

function run(
  data: EngineDatum[],
  lossFn: string,
  lossFnConfig: ForwardBackwardRequest['lossFnConfig'],
  trainer = roomy,
): TrainerResult & { passes: number } {
  const steps = trainer.steps(adapter, { modelId: 'm', data, lossFn, lossFnConfig, forwardOnly: false });
  for (let passes = 0; ; passes++) {
    const { done, value } = steps.next();
    if (done) return { ...value, passes };
  }
}

function expectSameGradients(a: TrainerResult, b: TrainerResult): void {
  a.grads!.forEach((grad, i) => {
    const [x, y] = [grad.dataSync(), b.grads![i]!.dataSync()];
    expect(maxDifference(x, y)).toBeLessThan(1e-4 * maxAbs(y) + 1e-9);
  });
}

const sum = (values: ArrayLike<number>) => Array.from(values).reduce((a, b) => a + b, 0);

test('dpo against the base model equals the formula on logprobs by torch', () => {
  const result = run(
    ORDER.map((i) => datum(i)),
    'dpo',
    { beta: 0.3, reference: 'base' },
  );
  const rewards = ORDER.map((i) => 0.3 * (sum(torch[i]!.model) - sum(torch[i]!.reference)));
  const margins = [rewards[0]! - rewards[1]!, rewards[2]! - rewards[3]!];
  const want = sum(margins.map((m) => Math.log1p(Math.exp(-m)))) / 2;
  expect(result.metrics['loss:sum']).toBeCloseTo(want, 4);
  expect(result.metrics['margin:mean']).toBeCloseTo(sum(margins) / 2, 4);
  expect(result.metrics['accuracy:mean']).toBe(margins.filter((m) => m > 0).length / 2);

  const given = run(
    ORDER.map((i) => datum(i, { ref_logprobs: [...torch[i]!.reference] })),
    'dpo',
    { beta: 0.3 },
  );
  expect(given.metrics['loss:sum']).toBeCloseTo(want, 4);
  expectSameGradients(result, given);
});

test('pairs stay together when a request is cut into passes, and gradients are the same', () => {
  const data = ORDER.map((i) => datum(i));
  const whole = run(data, 'dpo', { reference: 'base', sft_weight: 0.1 });
  const cut = run(data, 'dpo', { reference: 'base', sft_weight: 0.1 }, cramped);
  // The passes that score the base model are the same in both.
  expect(cut.passes - whole.passes).toBe(1);
  for (const [key, value] of Object.entries(whole.metrics)) expect(cut.metrics[key]).toBeCloseTo(value, 4);
  expectSameGradients(cut, whole);
});

test('ppo with a penalty against the base model equals the formula on logprobs by torch', () => {
  const sampling = (i: number) => Array.from(torch[i]!.model, (lp, t) => lp + 0.3 * Math.sin(t));
  const advantages = (i: number) => sampling(i).map((_, t) => Math.cos(3 * t));
  const data = [0, 1, 2].map((i) => datum(i, { logprobs: sampling(i), advantages: advantages(i) }));
  const { metrics } = run(data, 'ppo', { kl_coeff: 0.2, reference: 'base' });
  const terms = [0, 1, 2].flatMap((i) =>
    Array.from(torch[i]!.model, (lp, t) => {
      const [ratio, advantage] = [Math.exp(lp - sampling(i)[t]!), advantages(i)[t]!];
      const clipped = Math.min(Math.max(ratio, 0.8), 1.2);
      const d = torch[i]!.reference[t]! - lp;
      return -Math.min(ratio * advantage, clipped * advantage) + 0.2 * (Math.exp(d) - d - 1);
    }),
  );
  expect(metrics['loss:sum']).toBeCloseTo(sum(terms), 3);
});

test('a loss that is not finite names datum and position and gives no gradient', () => {
  const logprobs = fixture.reference.sequences.map(({ tokens }) => tokens.map(() => -1));
  logprobs[1]![2] = -500;
  const data = [0, 1, 2].map((i) =>
    datum(i, { logprobs: logprobs[i]!, advantages: logprobs[i]!.map(() => 1) }),
  );
  const tensors = tf.memory().numTensors;
  expect(() => run(data, 'importance_sampling', {})).toThrow(/data\[1\] at position 2 is -?Infinity/);
  expect(tf.memory().numTensors).toBe(tensors);
});

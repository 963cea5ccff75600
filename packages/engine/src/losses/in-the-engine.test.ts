/** Losses on a real model: pairs, references computed by the server, and gradients that do not depend on the passes. */
import { tf } from '@anneal/tensorflow';
import { expect, test } from 'vitest';
import type { EngineDatum, ForwardBackwardRequest } from '../engine.ts';
import { LoraAdapter } from '../lora/adapter.ts';
import { BaseModel } from '../models/base-model.ts';
import { archFixture, loraSpec, maxAbs, maxDifference } from '../testing/fixtures.ts';
import '../testing/tensorflow.ts';
import { Trainer, type TrainerResult } from '../training/trainer.ts';
import { TrainingModel } from '../training/training-model.ts';
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

test('pairs tied by id give what adjacent pairs give, however passes are cut', () => {
  const adjacent = run(
    ORDER.map((i) => datum(i)),
    'dpo',
    { reference: 'base' },
  );
  const ids = [5, 5, 9, 9];
  const withId = (i: number) => {
    const plain = datum(ORDER[i]!);
    return datum(ORDER[i]!, { pair_id: Array.from(plain.tokens, () => ids[i]!) });
  };
  // Neighbours make other pairs than ids do: the first and last of these are the same sequence.
  const apart = run([2, 0, 1, 3].map(withId), 'dpo', { reference: 'base' }, cramped);
  for (const [key, value] of Object.entries(adjacent.metrics))
    expect(apart.metrics[key]).toBeCloseTo(value, 4);
  expectSameGradients(apart, adjacent);
  expect(apart.outputs[1]!.logprobs!.data).toEqual(adjacent.outputs[0]!.logprobs!.data);
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

test('refused calls of every kind leave the gradient and the tensors as they were', () => {
  const model = new TrainingModel('m', cramped, adapter);
  const call = (
    data: EngineDatum[],
    lossFn: string,
    lossFnConfig: ForwardBackwardRequest['lossFnConfig'],
  ) => {
    const steps = model.forwardBackward({ modelId: 'm', data, lossFn, lossFnConfig, forwardOnly: false });
    while (!steps.next().done);
  };
  const gradientNorm = () =>
    model.optimStep({ learningRate: 0, beta1: 0, beta2: 0, eps: 1, weightDecay: 0, gradClipNorm: 0 }).metrics[
      'grad_norm:l2'
    ]!;
  const full = (i: number, logprob = -1, advantage = 1) => {
    const { tokens } = datum(i);
    const advantages = Array.from(tokens, () => advantage);
    return datum(i, { logprobs: advantages.map(() => logprob), advantages });
  };
  const data = [0, 1, 2].map((i) => full(i));
  const lengths = [0, 1, 2].sort((a, b) => data[b]!.tokens.length - data[a]!.tokens.length);
  call(data, 'ppo', {});
  const want = gradientNorm();

  call(data, 'ppo', {});
  const tensors = tf.memory().numTensors;
  const bad: [RegExp, EngineDatum[], string, ForwardBackwardRequest['lossFnConfig']][] = [
    [/epsilon is unknown/, data, 'ppo', { epsilon: 0.2 }],
    [/beta is -1/, data, 'dro', { beta: -1 }],
    [/beta is NaN/, data, 'dro', { beta: Number.NaN }],
    [
      /low_threshold is 2; it must not be above/,
      data,
      'cispo',
      { clip_low_threshold: 2, clip_high_threshold: 1 },
    ],
    [
      /data\[1\]\.loss_fn_inputs\.advantages is missing/,
      [data[0]!, datum(1, { logprobs: [...torch[1]!.model] })],
      'gspo',
      {},
    ],
    [
      /data\[2\]\.loss_fn_inputs\.advantages\[0\] is NaN/,
      [full(0), full(1), full(2, -1, Number.NaN)],
      'ppo',
      {},
    ],
    [/needs pairs/, [datum(0)], 'dpo', { reference: 'base' }],
    [/stable_reinforce.*importance_sampling/, data, 'stable_reinforce', {}],
    // Shorter datums come into later passes, when longer ones have given gradients already.
    [
      /data\[\d\] at position 0 is -Infinity/,
      lengths.map((i) => full(i, i === lengths.at(-1) ? -500 : -1)),
      'importance_sampling',
      {},
    ],
  ];
  for (const [message, ...request] of bad) {
    expect(() => call(...request)).toThrow(message);
    expect(tf.memory().numTensors).toBe(tensors);
  }
  expect(gradientNorm()).toBeCloseTo(want, 6);
});

import { describe, expect, test } from 'vitest';
import '../testing/tensorflow.ts';
import { foldMetrics } from './metrics.ts';
import { findLoss } from './registry.ts';
import { evaluate, type LossCase, seededRandom } from './testing.ts';

const POLICY_LOSSES = ['importance_sampling', 'ppo', 'cispo', 'dro', 'gspo'];

const random = seededRandom(3);
const draw = (length: number, of: () => number) => Array.from({ length }, of);

/** Sampled positions behind a prompt whose targets, logprobs and advantages are filled with zeros, as recipes do. */
function rollout(promptLogprob: number, length: number): LossCase {
  const prompt = [0, 0, 0];
  const actions = draw(length, () => -0.1 - random());
  return {
    logprobs: [...prompt.map(() => promptLogprob), ...actions],
    inputs: {
      logprobs: [...prompt, ...actions.map((lp) => lp + 0.4 * (random() - 0.5))],
      advantages: [...prompt, ...draw(length, () => random() - 0.5)],
    },
  };
}

describe.each(POLICY_LOSSES)('%s', (name) => {
  const loss = findLoss(name);
  const weightless = (c: LossCase): LossCase => ({
    ...c,
    inputs: { ...c.inputs, weights: c.logprobs.map((_, i) => (i < 3 ? 0 : 1)) },
  });
  /** The quadratic term of dro holds on the prompt as well, unless weights say otherwise. */
  const prepared = (c: LossCase) => (name === 'dro' ? weightless(c) : c);
  const mild = [prepared(rollout(-1, 4)), prepared(rollout(-1, 2))];
  const extreme = (lp: number) =>
    mild.map((c) => ({ ...c, logprobs: c.logprobs.map((value, i) => (i < 3 ? lp : (value as number))) }));
  const reference = (cases: LossCase[]) =>
    cases.map((c) => ({
      ...c,
      inputs: { ...c.inputs, ref_logprobs: c.logprobs.map((lp, i) => (i < 3 ? 0 : (lp as number) - 0.2)) },
    }));

  test.each([-1e4, -1e30, -Infinity, 1e4])('a prompt logprob of %d changes nothing', (lp) => {
    const want = evaluate(loss, {}, mild);
    const got = evaluate(loss, {}, extreme(lp));
    expect(got).toEqual(want);
    expect(got.gradients.flat().every(Number.isFinite)).toBe(true);
    expect(got.gradients.flatMap((row) => row.slice(0, 3)).every((g) => g === 0)).toBe(true);
    expect(evaluate(loss, { kl_coeff: 0.1 }, reference(extreme(lp))).loss).toBe(
      evaluate(loss, { kl_coeff: 0.1 }, reference(mild)).loss,
    );
  });

  test('metrics of one pass equal those of two passes folded', () => {
    const parts = mild.map((c) => ({ values: evaluate(loss, {}, [c]).metrics, datums: 1 }));
    const { metrics } = evaluate(loss, {}, mild);
    for (const [key, value] of Object.entries(foldMetrics(parts))) expect(metrics[key]).toBeCloseTo(value, 6);
    expect(Object.keys(metrics)).toEqual(expect.arrayContaining(['kl:mean', 'ratio:max', 'entropy:mean']));
  });

  test('the penalty is kl_coeff times exp(d) - 1 - d, once per action', () => {
    const plain = evaluate(loss, {}, mild);
    const penalised = evaluate(loss, { kl_coeff: 0.5 }, reference(mild));
    // log p_ref is 0.2 below log p at each of the 4 + 2 actions.
    const k3 = Math.exp(-0.2) - 1 + 0.2;
    expect(penalised.loss - plain.loss).toBeCloseTo(6 * 0.5 * k3, 5);
    expect(penalised.metrics['kl_ref:mean']).toBeCloseTo(k3, 5);
    expect(evaluate(loss, { kl_coeff: 0 }, reference(mild)).gradients).toEqual(plain.gradients);
  });

  test('reference "base" reads what the engine fills in', () => {
    const given = evaluate(loss, { kl_coeff: 0.5 }, reference(mild));
    const refs = reference(mild).map(({ inputs }) => inputs.ref_logprobs as number[]);
    expect(evaluate(loss, { kl_coeff: 0.5, reference: 'base' }, mild, refs)).toEqual(given);
  });
});

test('metrics in closed form', () => {
  const half = Math.log(0.5);
  const { metrics } = evaluate(findLoss('ppo'), {}, [
    { logprobs: [-9, half, half], inputs: { logprobs: [0, half, 2 * half], advantages: [0, 1, 1] } },
    { logprobs: [half], inputs: { logprobs: [half], advantages: [-1] } },
  ]);
  expect(metrics['ratio:max']).toBeCloseTo(2, 5);
  expect(metrics['clip_fraction:mean']).toBeCloseTo((0.5 + 0) / 2, 6);
  expect(metrics['kl:mean']).toBeCloseTo((2 - 1 - Math.log(2)) / 2 / 2, 6);
  expect(metrics['entropy:mean']).toBeCloseTo(Math.log(2), 6);
});

test.each(['ppo', 'cispo', 'gspo'])('%s: thresholds per token go before those of the config', (name) => {
  const cases: LossCase[] = [
    { logprobs: [-1, -1, -1], inputs: { logprobs: [-1.3, -0.9, -1.3], advantages: [1, -1, 2] } },
  ];
  const config = { clip_low_threshold: 0.95, clip_high_threshold: 1.05 };
  const perToken = cases.map((c) => ({
    ...c,
    inputs: {
      ...c.inputs,
      clip_low_threshold: c.logprobs.map(() => 0.95),
      clip_high_threshold: c.logprobs.map(() => 1.05),
    },
  }));
  const wide = { clip_low_threshold: 0, clip_high_threshold: 9 };
  expect(evaluate(findLoss(name), wide, perToken)).toEqual(evaluate(findLoss(name), config, cases));
  expect(evaluate(findLoss(name), wide, cases).gradients).not.toEqual(
    evaluate(findLoss(name), config, cases).gradients,
  );
});

test('an infinite ratio that clipping makes harmless stays harmless', () => {
  const wild: LossCase = { logprobs: [-1, -1], inputs: { logprobs: [-500, -1], advantages: [2, 1] } };
  for (const name of ['ppo', 'cispo', 'gspo']) {
    const { loss, gradients, metrics } = evaluate(
      findLoss(name),
      { clip_low_threshold: 0.8, clip_high_threshold: 1.2 },
      [wild],
    );
    expect([loss, ...gradients.flat(), ...Object.values(metrics)].every(Number.isFinite)).toBe(true);
  }
  expect(evaluate(findLoss('ppo'), {}, [wild]).gradients).toEqual([[-0, -1]]);
});

test('an unbounded ratio is not hidden', () => {
  const wild: LossCase = { logprobs: [-1, -1], inputs: { logprobs: [-500, -1], advantages: [2, 1] } };
  const { elementwise } = evaluate(findLoss('importance_sampling'), {}, [wild]);
  expect(elementwise![0]).toBe(-Infinity);
});

test('dro holds the model to the sampling logprobs at every position that has weight', () => {
  const c: LossCase = { logprobs: [-3, -1], inputs: { logprobs: [0, -1], advantages: [0, 1] } };
  expect(evaluate(findLoss('dro'), { beta: 0.1 }, [c]).gradients[0]![0]).toBeCloseTo(-0.3, 6);
});

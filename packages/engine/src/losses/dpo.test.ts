import { describe, expect, test } from 'vitest';
import '../testing/tensorflow.ts';
import { type EngineDatum, EngineError } from '../engine.ts';
import { foldMetrics } from './metrics.ts';
import { findLoss } from './registry.ts';
import { datumOf, evaluate, float32, type LossCase } from './testing.ts';

const dpo = findLoss('dpo');

const PAIRS: LossCase[] = [
  { logprobs: [-9, -0.5, -0.25], inputs: { ref_logprobs: [0, -1, -0.5], weights: [0, 1, 1] } },
  { logprobs: [-9, -2, -1.5, -1], inputs: { ref_logprobs: [0, -1.5, -1, -1], weights: [0, 1, 1, 1] } },
  { logprobs: [-1.5, -0.5], inputs: { ref_logprobs: [-1, -0.25], weights: [1, 1] } },
  { logprobs: [-0.75], inputs: { ref_logprobs: [-1.25], weights: [1] } },
];

describe('a mean over pairs', () => {
  test('prompt positions of weight 0 change nothing, whatever their logprobs', () => {
    const want = evaluate(dpo, { sft_weight: 0.5 }, PAIRS);
    for (const lp of [-1e30, -Infinity]) {
      const wild = PAIRS.map((c, i) =>
        i < 2 ? { ...c, logprobs: [lp, ...(c.logprobs as number[]).slice(1)] } : c,
      );
      expect(evaluate(dpo, { sft_weight: 0.5 }, wild)).toEqual(want);
    }
  });

  test('rewards, margin and accuracy, by hand', () => {
    const { metrics } = evaluate(dpo, { beta: 0.5 }, PAIRS);
    // Sums of log p - log p_ref: 0.75 and -1 in the first pair, -0.75 and 0.5 in the second.
    expect(metrics['chosen_reward:mean']).toBeCloseTo((0.5 * (0.75 - 0.75)) / 2, 6);
    expect(metrics['rejected_reward:mean']).toBeCloseTo((0.5 * (-1 + 0.5)) / 2, 6);
    expect(metrics['margin:mean']).toBeCloseTo((0.5 * (1.75 - 1.25)) / 2, 6);
    expect(metrics['accuracy:mean']).toBeCloseTo(0.5, 6);
  });

  test('sft_weight adds the likelihood per token of the chosen sequence', () => {
    const plain = evaluate(dpo, {}, PAIRS);
    const both = evaluate(dpo, { sft_weight: 2 }, PAIRS);
    const nll = ((0.5 + 0.25) / 2 + (1.5 + 0.5) / 2) / 2;
    expect(both.metrics['sft_nll:mean']).toBeCloseTo(nll, 6);
    expect(both.loss - plain.loss).toBeCloseTo(2 * nll, 6);
    expect(both.gradients[1]).toEqual(plain.gradients[1]);
  });

  test('the base model may stand for the reference', () => {
    const without = PAIRS.map(({ logprobs, inputs: { ref_logprobs: _, ...inputs } }) => ({
      logprobs,
      inputs,
    }));
    const refs = PAIRS.map(({ inputs }) => inputs.ref_logprobs as number[]);
    expect(evaluate(dpo, { reference: 'base' }, without, refs)).toEqual(evaluate(dpo, {}, PAIRS));
  });

  test('reduction "sum" adds up over requests, and metrics fold', () => {
    const halves = [PAIRS.slice(0, 2), PAIRS.slice(2)].map((half) =>
      evaluate(dpo, { reduction: 'sum' }, half),
    );
    const whole = evaluate(dpo, { reduction: 'sum' }, PAIRS);
    expect(halves[0]!.loss + halves[1]!.loss).toBeCloseTo(whole.loss, 6);
    expect(whole.loss / 2).toBeCloseTo(evaluate(dpo, {}, PAIRS).loss, 6);
    const folded = foldMetrics(halves.map(({ metrics }) => ({ values: metrics, datums: 2 })));
    for (const [key, value] of Object.entries(folded)) expect(whole.metrics[key]).toBeCloseTo(value, 6);
  });
});

describe('pairs that the SDK cut apart are refused', () => {
  const config = { beta: 0.1, label_smoothing: 0, loss_type: 'sigmoid', sft_weight: 0, reference: 'given' };
  const refusal = (data: EngineDatum[], changes = {}) => {
    try {
      dpo.validate?.(data, { ...config, ...changes });
    } catch (error) {
      if (error instanceof EngineError && error.category === 'user') return error.message;
      throw error;
    }
    return undefined;
  };
  /** A prompt of three tokens of its own, then an answer. */
  const conversation = (prompt: number, answer: number): EngineDatum => ({
    tokens: Int32Array.of(0, prompt, prompt + 1, answer),
    inputs: { ...datumOf(PAIRS[1]!).inputs, weights: float32([0, 0, 1, 1]) },
  });
  const call = [10, 20, 30, 40].flatMap((prompt) => [conversation(prompt, 1), conversation(prompt, 2)]);

  test('an odd number of datums', () => {
    expect(refusal(call)).toBeUndefined();
    expect(refusal(call.slice(0, 5))).toMatch(
      /needs pairs.*has 5 datums.*1024 datums and about 5 MB.*fewer pairs per call/,
    );
  });

  test('an even number from the middle of a call', () => {
    expect(refusal(call.slice(1, 7))).toMatch(
      /request seems to start with a rejected datum.*fewer pairs per call/,
    );
    expect(refusal(call.slice(2, 6))).toBeUndefined();
  });

  test('several pairs of one prompt are no reason to refuse', () => {
    const ranked = [1, 2, 2, 3, 3, 4].map((answer) => conversation(10, answer));
    expect(refusal(ranked)).toBeUndefined();
  });

  test('pair ids that disagree', () => {
    const withIds = (ids: number[]) =>
      call.slice(0, ids.length).map((datum, i) => ({
        ...datum,
        inputs: { ...datum.inputs, pair_id: float32(Array(4).fill(ids[i])) },
      }));
    expect(refusal(withIds([1, 1, 2, 2]))).toBeUndefined();
    expect(refusal(withIds([1, 2, 2, 3]))).toMatch(/data\[0\] and data\[1\] have pair_id 1 and 2/);
    expect(refusal([...withIds([1, 1]), ...call.slice(2, 4)])).toMatch(/data\[2\].*pair_id is missing/);
  });

  test('label_smoothing where it has no meaning', () => {
    expect(refusal(call, { loss_type: 'ipo', label_smoothing: 0.1 })).toMatch(
      /only loss_type "sigmoid" knows/,
    );
  });
});

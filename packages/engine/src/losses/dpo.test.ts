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

  test('pair ids tie datums that are apart, the first of two being chosen', () => {
    const ordered = evaluate(dpo, { sft_weight: 0.5 }, PAIRS);
    const from = [2, 0, 1, 3];
    const apart = from.map((i) => {
      const { logprobs, inputs } = PAIRS[i]!;
      return { logprobs, inputs: { ...inputs, pair_id: logprobs.map(() => (i < 2 ? 7 : 4)) } };
    });
    const tied = evaluate(dpo, { sft_weight: 0.5 }, apart);
    expect(tied.loss).toBeCloseTo(ordered.loss, 6);
    for (const [key, value] of Object.entries(ordered.metrics))
      expect(tied.metrics[key]).toBeCloseTo(value, 6);
    tied.gradients.forEach((gradient, datum) => {
      ordered.gradients[from[datum]!]!.forEach((want, t) => {
        expect(gradient[t]).toBeCloseTo(want, 6);
      });
    });
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

  const repeated = (data: EngineDatum[], count: number) =>
    Array.from({ length: count }, (_, i) => data[i % data.length]!);

  test('a request that others may follow, where prompts do not show its pairs', () => {
    const onePrompt = repeated([conversation(10, 1), conversation(10, 2)], 1024);
    const noWeights = repeated(call, 1024).map(({ tokens, inputs: { weights: _, ...inputs } }) => ({
      tokens,
      inputs,
    }));
    for (const data of [onePrompt, noWeights]) {
      expect(refusal(data)).toMatch(/1024 datums.*may be a part of a larger call.*pair_id.*or pass fewer/);
      expect(refusal(data.slice(2))).toBeUndefined();
    }
    expect(refusal(repeated(call, 1024))).toBeUndefined();
    const long = (answer: number) => {
      const [length, data] = [150_000, float32([0, 1]).data];
      return {
        ...conversation(10, answer),
        tokens: new Int32Array(length),
        inputs: { weights: { ...float32([0]), data } },
      };
    };
    expect(refusal([long(1), long(2)])).toMatch(/2 datums.*may be a part of a larger call/);
  });

  const withIds = (ids: number[]) =>
    repeated(call, ids.length).map((datum, i) => ({
      ...datum,
      inputs: { ...datum.inputs, pair_id: float32(Array(4).fill(ids[i])) },
    }));

  test('pair ids of which one datum is missing, or one too many there', () => {
    expect(refusal(withIds([1, 1, 2, 2]))).toBeUndefined();
    expect(refusal(withIds([1, 2, 1, 2]))).toBeUndefined();
    expect(refusal(withIds(Array.from({ length: 1024 }, (_, i) => i >> 1)))).toBeUndefined();
    expect(refusal(withIds([1, 2, 2, 3]))).toMatch(/pair_id 1 stands in data\[0\] only.*1024 datums/);
    expect(refusal(withIds([1, 2, 2]))).toMatch(/pair_id 1 stands in data\[0\] only/);
    expect(refusal(withIds([1, 1, 2, 2, 1, 1]))).toMatch(
      /pair_id 1 stands in 4 datums \(data\[0\], data\[1\], data\[4\], data\[5\]\); it must stand in two/,
    );
    expect(refusal([...withIds([1, 1]), ...call.slice(2, 4)])).toMatch(/data\[2\].*pair_id is missing/);
  });

  test('a pair id that changes within a datum', () => {
    const data = withIds([1, 1]);
    data[1]!.inputs.pair_id = float32([1, 1, 2, 2]);
    expect(refusal(data)).toBe(
      'data[1].loss_fn_inputs.pair_id[2] is 2, [0] is 1; all positions must hold one id.',
    );
  });

  test('label_smoothing where it has no meaning', () => {
    expect(refusal(call, { loss_type: 'ipo', label_smoothing: 0.1 })).toMatch(
      /only loss_type "sigmoid" knows/,
    );
  });
});

import { describe, expect, test } from 'vitest';
import { type EngineDatum, EngineError, type HostTensor } from '../engine.ts';
import { checkDatums, describeNonFinite, padInputs, parseLossConfig } from './inputs.ts';
import { findLoss } from './registry.ts';
import { datumOf, float32 } from './testing.ts';

const VOCAB = 100;
const MAX_LENGTH = 6;

/** What `run` throws, which must be a user error. */
function userError(run: () => unknown): string {
  try {
    run();
  } catch (error) {
    if (error instanceof EngineError && error.category === 'user') return error.message;
    throw error;
  }
  throw new Error('nothing was thrown');
}

const ids = (...values: number[]): HostTensor => ({
  dtype: 'int64',
  shape: [values.length],
  data: BigInt64Array.from(values, BigInt),
});

/** A good datum of three tokens for the policy losses, with some inputs replaced or (undefined) removed. */
function policyDatum(changes: Record<string, HostTensor | undefined> = {}): EngineDatum {
  const inputs: Record<string, HostTensor | undefined> = {
    target_tokens: ids(2, 3, 4),
    logprobs: float32([-0.1, -0.2, -0.3]),
    advantages: float32([0, 1, 1]),
    ...changes,
  };
  return {
    tokens: Int32Array.of(1, 2, 3),
    inputs: Object.fromEntries(
      Object.entries(inputs).flatMap(([name, tensor]) => (tensor ? [[name, tensor]] : [])),
    ),
  };
}

function refusal(lossFn: string, data: EngineDatum[], config: Record<string, number | string> = {}): string {
  const loss = findLoss(lossFn);
  return userError(() => {
    const parsed = parseLossConfig(loss, config);
    checkDatums(loss, parsed, data, VOCAB, MAX_LENGTH);
    loss.validate?.(data, parsed);
  });
}

describe('a bad config names key, value and what is allowed', () => {
  const cases: [string, Record<string, number | string>, string][] = [
    ['dpo', { beta: -1 }, 'loss_fn_config.beta is -1; it must be a finite number above 0 (default 0.1).'],
    [
      'dro',
      { beta: -0.5 },
      'loss_fn_config.beta is -0.5; it must be a finite number at least 0 (default 0.05).',
    ],
    [
      'dro',
      { beta: Number.NaN },
      'loss_fn_config.beta is NaN; it must be a finite number at least 0 (default 0.05).',
    ],
    [
      'dro',
      { beta: '0.1' },
      'loss_fn_config.beta is "0.1"; it must be a finite number at least 0 (default 0.05).',
    ],
    [
      'dpo',
      { label_smoothing: 0.7 },
      'loss_fn_config.label_smoothing is 0.7; it must be a finite number at least 0 and at most 0.5 (default 0).',
    ],
    [
      'dpo',
      { loss_type: 'hing' },
      'loss_fn_config.loss_type is "hing"; it must be one of "sigmoid", "ipo", "hinge" (default "sigmoid").',
    ],
    [
      'ppo',
      { epsilon: 0.2 },
      'loss_fn_config.epsilon is unknown; keys of loss_fn "ppo": clip_low_threshold, clip_high_threshold, kl_coeff, reference.',
    ],
    ['cross_entropy', { beta: 1 }, 'loss_fn_config.beta is unknown; keys of loss_fn "cross_entropy": none.'],
    [
      'ppo',
      { clip_low_threshold: 1.3 },
      'loss_fn_config.clip_low_threshold is 1.3; it must not be above clip_high_threshold (1.2).',
    ],
  ];
  test.each(cases)('%s %j', (lossFn, config, message) => {
    expect(refusal(lossFn, [policyDatum()], config)).toBe(message);
  });

  test('all problems are told at once', () => {
    const message = userError(() => parseLossConfig(findLoss('dpo'), { beta: 0, sft_weight: -1 }));
    expect(message).toContain('beta is 0;');
    expect(message).toContain('sft_weight is -1;');
  });
});

describe('a bad datum is named with field, position and value', () => {
  const cases: [string, Record<string, HostTensor | undefined>, string][] = [
    [
      'missing input',
      { advantages: undefined },
      'data[1].loss_fn_inputs.advantages is missing; loss_fn "ppo" needs it (shape [3]).',
    ],
    [
      'not a number',
      { advantages: float32([0, Number.NaN, 1]) },
      'data[1].loss_fn_inputs.advantages[1] is NaN (finite numbers).',
    ],
    [
      'infinite',
      { logprobs: float32([0, 0, -Infinity]) },
      'data[1].loss_fn_inputs.logprobs[2] is -Infinity (finite numbers).',
    ],
    [
      'below its range',
      { weights: float32([1, -2, 1]) },
      'data[1].loss_fn_inputs.weights[1] is -2 (finite numbers, at least 0).',
    ],
    [
      'too short',
      { logprobs: float32([0, 0]) },
      'data[1].loss_fn_inputs.logprobs has shape [2] (that of target_tokens, [3]).',
    ],
    [
      'unknown input',
      { mask: float32([0, 1, 1]) },
      'data[1].loss_fn_inputs.mask is not an input of loss_fn "ppo" (inputs: target_tokens, logprobs, advantages, weights, clip_low_threshold, clip_high_threshold, ref_logprobs).',
    ],
    [
      'no targets',
      { target_tokens: undefined },
      'data[1].loss_fn_inputs.target_tokens is missing (one target id per token of model_input, shape [3]).',
    ],
    [
      'targets as floats',
      { target_tokens: float32([1, 2, 3]) },
      'data[1].loss_fn_inputs.target_tokens is float32 (integers: int64 or int32).',
    ],
    [
      'target beyond the vocabulary',
      { target_tokens: ids(1, 100, 3) },
      'data[1].loss_fn_inputs.target_tokens[1] is 100 (token ids are 0 to 99).',
    ],
    [
      'negative target',
      { target_tokens: ids(1, 2, -100) },
      'data[1].loss_fn_inputs.target_tokens[2] is -100 (token ids are 0 to 99).',
    ],
    [
      'targets of another length',
      { target_tokens: ids(1, 2) },
      'data[1].loss_fn_inputs.target_tokens has shape [2] (one row per token of model_input: [3]).',
    ],
    [
      'several targets per token',
      { target_tokens: { dtype: 'int64', shape: [3, 2], data: new BigInt64Array(6) } },
      'data[1].loss_fn_inputs.target_tokens has shape [3, 2] (loss_fn "ppo" takes one target per token, [3]).',
    ],
    [
      'fewer values than the shape says',
      { advantages: { ...float32([1, 1]), shape: [3] } },
      'data[1].loss_fn_inputs.advantages holds 2 values (its shape [3] has 3).',
    ],
    [
      'thresholds the wrong way round at a position',
      { clip_low_threshold: float32([0.8, 0.8, 1.5]) },
      'data[1].loss_fn_inputs.clip_low_threshold[2] is 1.5; it must not be above clip_high_threshold there (1.2).',
    ],
  ];
  test.each(cases)('%s', (_, changes, message) => {
    expect(refusal('ppo', [policyDatum(), policyDatum(changes)])).toBe(message);
  });

  test('tokens', () => {
    const withTokens = (...tokens: number[]) => ({ ...policyDatum(), tokens: Int32Array.from(tokens) });
    expect(refusal('ppo', [])).toBe('data is empty; it must have at least one datum.');
    expect(refusal('ppo', [withTokens()])).toBe('data[0].model_input is empty (at least one token).');
    expect(refusal('ppo', [withTokens(1, 100, 2)])).toBe(
      'data[0].model_input[1] is 100 (token ids are 0 to 99).',
    );
    expect(refusal('ppo', [withTokens(1, 1, 1, 1, 1, 1, 1)])).toBe(
      "data[0].model_input has 7 tokens (at most 6, the model's context).",
    );
  });

  test('the cell of a table of targets', () => {
    const targets: HostTensor = { dtype: 'int64', shape: [3, 2], data: new BigInt64Array(6) };
    const weights = float32([
      [1, 1],
      [1, Number.NaN],
      [1, 1],
    ]);
    const datum = { tokens: Int32Array.of(1, 2, 3), inputs: { target_tokens: targets, weights } };
    expect(refusal('cross_entropy', [datum])).toBe(
      'data[0].loss_fn_inputs.weights[1][1] is NaN (finite numbers).',
    );
  });
});

describe('a reference is asked for in one way', () => {
  const withReference = policyDatum({ ref_logprobs: float32([0, -1, -1]) });
  test('needed with kl_coeff', () => {
    expect(refusal('ppo', [policyDatum()], { kl_coeff: 0.1 })).toContain('ref_logprobs is missing');
  });
  test('refused where nothing reads it', () => {
    expect(refusal('ppo', [withReference])).toContain('set loss_fn_config.kl_coeff');
    expect(refusal('ppo', [policyDatum()], { reference: 'base' })).toContain('set kl_coeff');
  });
  test('refused beside reference "base"', () => {
    const message = refusal('ppo', [withReference], { kl_coeff: 0.1, reference: 'base' });
    expect(message).toContain('leave one of the two out');
    const pair = [1, 2].map(() => datumOf({ logprobs: [-1, -1], inputs: { ref_logprobs: [-1, -1] } }));
    expect(refusal('dpo', pair, { reference: 'base' })).toContain('leave one of the two out');
  });
  test('not needed with "base"', () => {
    const loss = findLoss('ppo');
    const config = parseLossConfig(loss, { kl_coeff: 0.1, reference: 'base' });
    expect(loss.baseLogprobsInput?.(config)).toBe('ref_logprobs');
    checkDatums(loss, config, [policyDatum()], VOCAB, MAX_LENGTH);
  });
});

test('inputs are padded with zeros, and what is left out is filled in', () => {
  const loss = findLoss('gspo');
  const config = parseLossConfig(loss, { clip_low_threshold: 0.5, clip_high_threshold: 2 });
  const short = policyDatum({ clip_high_threshold: float32([3, 4, 5]) });
  const padded = padInputs(loss, config, [policyDatum(), short], 4, 1);
  expect(padded.advantages).toEqual(Float32Array.of(0, 1, 1, 0, 0, 1, 1, 0));
  expect(padded.sequence_ratio_mask).toEqual(Float32Array.of(0, 1, 1, 0, 0, 1, 1, 0));
  expect(padded.clip_low_threshold).toEqual(Float32Array.of(0.5, 0.5, 0.5, 0, 0.5, 0.5, 0.5, 0));
  expect(padded.clip_high_threshold).toEqual(Float32Array.of(2, 2, 2, 0, 3, 4, 5, 0));
});

test('tables of different K share a batch', () => {
  const loss = findLoss('cross_entropy');
  const one = datumOf({ logprobs: [-1, -1], inputs: {} });
  const two = datumOf({ logprobs: [[-1, -1]], inputs: { weights: [[0.25, 0.75]] } });
  expect(padInputs(loss, {}, [one, two], 2, 2).weights).toEqual(
    Float32Array.of(1, 0, 1, 0, 0.25, 0.75, 0, 0),
  );
});

test('the first loss that is not finite is told by datum and position', () => {
  const values = Float32Array.of(1, 2, Number.NaN, 3, Infinity, 0);
  expect(describeNonFinite(values, [2, 2], 3)).toContain('data[1] at position 1 is Infinity');
  expect(describeNonFinite(values, [3, 1], 3, [7, 4])).toContain('data[7] at position 2 is NaN');
  expect(describeNonFinite(values, [2, 1], 3)).toBeUndefined();
});

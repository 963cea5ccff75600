/** Compares a loss's gradient with finite differences, on random data made from its definition alone. */
import { type Tensor, tf } from '@anneal/tensorflow';
import type { EngineDatum } from '../engine.ts';
import { parseLossConfig } from './inputs.ts';
import type { LossConfig, LossDefinition } from './loss.ts';
import { prepareLoss } from './run-loss.ts';
import { HeldConstants } from './stop-gradient.ts';

/** Wide enough for float32 to see a difference, narrow enough for the next order to be negligible. */
const STEP = 1e-2;
const VOCAB_SIZE = 50;

export interface GradientCheck {
  /** Largest derivative. */
  largest: number;
  /** Largest difference between tfjs's derivatives and central differences, relative to `largest`. */
  error: number;
}

/**
 * @param rawConfig `loss_fn_config` as a request would send it.
 * @param random Uniform in [0, 1).
 */
export function checkGradient(
  definition: LossDefinition,
  rawConfig: Record<string, number | string>,
  random: () => number,
): GradientCheck {
  const config = parseLossConfig(definition, rawConfig);
  const prepared = prepareLoss(definition, rawConfig, randomData(definition, config, random), VOCAB_SIZE);
  const elements = prepared.elements.flat();
  const computed = definition.baseLogprobsInput?.(config);
  const values = new Float32Array(prepared.shape.reduce((a, b) => a * b));
  for (const i of elements) {
    values[i] = randomLogprob(random);
    if (computed) prepared.inputs[computed]![i] = randomLogprob(random);
  }
  const constants = new HeldConstants();
  const evaluate = (logprobs: Tensor) => constants.run(() => prepared.compute(logprobs).loss);
  const analytic = tf.tidy(() => tf.grad(evaluate)(tf.tensor(values, prepared.shape)).dataSync());
  const lossAt = (index: number, moved: number) =>
    tf.tidy(() => evaluate(tf.tensor(values.with(index, moved), prepared.shape)).dataSync()[0]!);
  let worst = 0;
  let largest = 0;
  for (const i of elements) {
    const numeric = (lossAt(i, values[i]! + STEP) - lossAt(i, values[i]! - STEP)) / (2 * STEP);
    worst = Math.max(worst, Math.abs(numeric - analytic[i]!));
    largest = Math.max(largest, Math.abs(analytic[i]!));
  }
  constants.dispose();
  return { largest, error: worst / largest };
}

/** Two groups of datums of different lengths; required inputs are drawn within their ranges, others left out. */
function randomData(definition: LossDefinition, config: LossConfig, random: () => number): EngineDatum[] {
  return Array.from({ length: 2 * (definition.groupSize ?? 1) }, (_, i) => {
    const length = 4 + (i % 3);
    const ids = () => Int32Array.from({ length }, () => Math.floor(random() * VOCAB_SIZE));
    const targets = { dtype: 'int32', shape: [length], data: ids() } as const;
    const datum: EngineDatum = { tokens: ids(), inputs: { target_tokens: { ...targets, shape: [length] } } };
    for (const [name, { default: constant, fill, min = -1, max = 1 }] of Object.entries(definition.inputs)) {
      const isComputed = name === definition.baseLogprobsInput?.(config);
      if (isComputed || constant !== undefined || fill?.(datum, config) !== undefined) continue;
      const draw = () => (name.endsWith('logprobs') ? randomLogprob(random) : min + (max - min) * random());
      datum.inputs[name] = { dtype: 'float32', shape: [length], data: Float32Array.from({ length }, draw) };
    }
    return datum;
  });
}

function randomLogprob(random: () => number): number {
  return -0.1 - random();
}

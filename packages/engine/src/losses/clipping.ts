/** Clip thresholds of the importance ratio: options, per-token inputs, checks, and the clipped surrogate. */
import { type Tensor, tf } from '@anneal/tensorflow';
import { z } from 'zod';
import { type EngineDatum, EngineError } from '../engine.ts';
import type { LossBatch, LossInput } from './loss.ts';
import { stopGradient } from './stop-gradient.ts';

/** Keys of `loss_fn_config`. Ratios (0.8), not distances from one (0.2). */
export function clipOptions(low: number, high: number) {
  return {
    clip_low_threshold: z.number().min(0).default(low),
    clip_high_threshold: z.number().min(0).default(high),
  };
}

export interface ClipConfig {
  readonly [key: string]: unknown;
  readonly clip_low_threshold: number;
  readonly clip_high_threshold: number;
}

const NAMES = ['clip_low_threshold', 'clip_high_threshold'] as const;

/** A datum may bring thresholds per token under the same names; they go before the config's. */
export const clipInputs: Record<(typeof NAMES)[number], LossInput<ClipConfig>> = {
  clip_low_threshold: { min: 0, fill: (_datum, config) => config.clip_low_threshold },
  clip_high_threshold: { min: 0, fill: (_datum, config) => config.clip_high_threshold },
};

/** @throws EngineError (user) where low is above high, in the config or at a position. */
export function checkThresholds(data: EngineDatum[], config: ClipConfig): void {
  const [low, high] = NAMES;
  if (config[low] > config[high]) {
    throw new EngineError(
      'user',
      `loss_fn_config.${low} is ${config[low]}; it must not be above ${high} (${config[high]}).`,
    );
  }
  data.forEach(({ tokens, inputs }, datum) => {
    if (!inputs[low] && !inputs[high]) return;
    for (let i = 0; i < tokens.length; i++) {
      const [lowest, highest] = NAMES.map((name) => Number(inputs[name]?.data[i] ?? config[name])) as [
        number,
        number,
      ];
      if (lowest <= highest) continue;
      throw new EngineError(
        'user',
        `data[${datum}].loss_fn_inputs.${low}[${i}] is ${lowest}; it must not be above ${high} there (${highest}).`,
      );
    }
  });
}

/**
 * min(r · A, clip(r, low, high) · A) with r = exp(logRatio), and where the constant branch is the minimum.
 *
 * That branch is chosen before `exp`, so that an infinite ratio that clipping makes harmless stays out of the gradient.
 */
export function clippedSurrogate(
  { inputs }: LossBatch,
  logRatio: Tensor,
): { objective: Tensor; clipped: Tensor } {
  const { advantages, clip_low_threshold: low, clip_high_threshold: high } = inputs;
  const isGain = tf.greater(advantages!, 0);
  const clipped = stopGradient(() => {
    const ratio = tf.exp(logRatio);
    const isLoss = tf.less(advantages!, 0);
    return tf.logicalOr(
      tf.logicalAnd(isGain, tf.greater(ratio, high!)),
      tf.logicalAnd(isLoss, tf.less(ratio, low!)),
    );
  });
  const bound = tf.where(isGain, high!, low!);
  const ratio = tf.where(clipped, bound, tf.exp(tf.where(clipped, 0, logRatio)));
  return { objective: tf.mul(ratio, advantages!), clipped };
}

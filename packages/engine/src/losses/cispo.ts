import { tf } from '@anneal/tensorflow';
import { z } from 'zod';
import { type ClipConfig, checkThresholds, clipInputs, clipOptions } from './clipping.ts';
import type { LossDefinition } from './loss.ts';
import { policyInputs, policyResult, scoredLogRatio } from './policy.ts';
import {
  baseLogprobsInput,
  checkReference,
  type ReferenceConfig,
  referenceInput,
  referenceOptions,
} from './reference-kl.ts';
import { stopGradient } from './stop-gradient.ts';

/**
 * −Σ clip(r, low, high) · A · log p, the clipped ratio being a constant: every position keeps a gradient.
 * TINKER-API section 9.4; MiniMax-M1, arXiv 2506.13585, equation 4.
 */
export const cispo: LossDefinition<ClipConfig & ReferenceConfig> = {
  name: 'cispo',
  config: z.strictObject({ ...clipOptions(0, 4), ...referenceOptions }),
  inputs: { ...policyInputs, ...clipInputs, ...referenceInput },
  baseLogprobsInput,
  validate: (data, config) => {
    checkThresholds(data, config);
    checkReference(data, config);
  },
  compute: (batch, config) => {
    const { advantages, weights, clip_low_threshold: low, clip_high_threshold: high } = batch.inputs;
    const ratio = stopGradient(() => tf.exp(scoredLogRatio(batch, weights!)));
    const factor = tf.mul(tf.minimum(tf.maximum(ratio, low!), high!), advantages!);
    const logprobs = tf.where(tf.notEqual(factor, 0), batch.logprobs, 0);
    const clipped = tf.logicalOr(tf.less(ratio, low!), tf.greater(ratio, high!));
    return policyResult(batch, config, { objective: tf.mul(factor, logprobs), weights: weights!, clipped });
  },
};

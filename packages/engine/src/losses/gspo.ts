import { tf } from '@anneal/tensorflow';
import { z } from 'zod';
import type { EngineDatum } from '../engine.ts';
import { type ClipConfig, checkThresholds, clipInputs, clipOptions, clippedSurrogate } from './clipping.ts';
import { toFloat32 } from './inputs.ts';
import type { LossDefinition, LossInput } from './loss.ts';
import { policyInputs, policyResult } from './policy.ts';
import {
  baseLogprobsInput,
  checkReference,
  type ReferenceConfig,
  referenceInput,
  referenceOptions,
} from './reference-kl.ts';

const { weights: _, ...tokenInputs } = policyInputs;

/** Without a mask, the positions that carry an advantage are the sequence. */
const sequenceRatioMask: LossInput = {
  min: 0,
  max: 1,
  fill: ({ inputs }: EngineDatum) =>
    inputs.advantages && toFloat32(inputs.advantages).map((advantage) => (advantage === 0 ? 0 : 1)),
};

/**
 * −Σ m · min(s · A, clip(s, low, high) · A) with one ratio per sequence, s = exp(Σ m · (log p − log q) / Σ m), and the
 * gradient through s. TINKER-API section 9.5; Zheng et al., "Group Sequence Policy Optimization", arXiv 2507.18071,
 * equations 5 to 7; default thresholds from its section 5.1.
 */
export const gspo: LossDefinition<ClipConfig & ReferenceConfig> = {
  name: 'gspo',
  config: z.strictObject({ ...clipOptions(1 - 3e-4, 1 + 4e-4), ...referenceOptions }),
  inputs: { ...tokenInputs, sequence_ratio_mask: sequenceRatioMask, ...clipInputs, ...referenceInput },
  baseLogprobsInput,
  validate: (data, config) => {
    checkThresholds(data, config);
    checkReference(data, config);
  },
  compute: (batch, config) => {
    const { logprobs: sampling, advantages, sequence_ratio_mask: mask } = batch.inputs;
    const tokenLogRatio = tf.where(tf.notEqual(mask!, 0), tf.sub(batch.logprobs, sampling!), 0);
    const total = tf.sum(mask!, -1, true);
    const length = tf.where(tf.equal(total, 0), 1, total);
    const logRatio = tf.div(tf.sum(tf.mul(tokenLogRatio, mask!), -1, true), length);
    const perPosition = tf.where(
      tf.notEqual(tf.mul(advantages!, mask!), 0),
      tf.broadcastTo(logRatio, mask!.shape),
      0,
    );
    const { objective, clipped } = clippedSurrogate(batch, perPosition);
    return policyResult(batch, config, { objective, weights: mask!, clipped });
  },
};

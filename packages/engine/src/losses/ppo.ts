import { z } from 'zod';
import { type ClipConfig, checkThresholds, clipInputs, clipOptions, clippedSurrogate } from './clipping.ts';
import type { LossDefinition } from './loss.ts';
import { policyInputs, policyResult, scoredLogRatio } from './policy.ts';
import {
  baseLogprobsInput,
  checkReference,
  type ReferenceConfig,
  referenceInput,
  referenceOptions,
} from './reference-kl.ts';

/**
 * −Σ min(r · A, clip(r, low, high) · A) with r = exp(log p − log q). TINKER-API section 9.3; Schulman et al., "Proximal
 * Policy Optimization Algorithms", arXiv 1707.06347, equation 7.
 */
export const ppo: LossDefinition<ClipConfig & ReferenceConfig> = {
  name: 'ppo',
  config: z.strictObject({ ...clipOptions(0.8, 1.2), ...referenceOptions }),
  inputs: { ...policyInputs, ...clipInputs, ...referenceInput },
  baseLogprobsInput,
  validate: (data, config) => {
    checkThresholds(data, config);
    checkReference(data, config);
  },
  compute: (batch, config) => {
    const weights = batch.inputs.weights!;
    const { objective, clipped } = clippedSurrogate(batch, scoredLogRatio(batch, weights));
    return policyResult(batch, config, { objective, weights, clipped });
  },
};

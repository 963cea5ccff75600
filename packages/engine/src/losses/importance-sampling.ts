import { tf } from '@anneal/tensorflow';
import { z } from 'zod';
import type { LossDefinition } from './loss.ts';
import { policyInputs, policyResult, scoredLogRatio } from './policy.ts';
import {
  baseLogprobsInput,
  checkReference,
  type ReferenceConfig,
  referenceInput,
  referenceOptions,
} from './reference-kl.ts';

/** −Σ r · A with r = exp(log p − log q), unclipped. TINKER-API section 9.2. */
export const importanceSampling: LossDefinition<ReferenceConfig> = {
  name: 'importance_sampling',
  config: z.strictObject(referenceOptions),
  inputs: { ...policyInputs, ...referenceInput },
  baseLogprobsInput,
  validate: checkReference,
  compute: (batch, config) => {
    const { advantages, weights } = batch.inputs;
    const ratio = tf.exp(scoredLogRatio(batch, weights!));
    return policyResult(batch, config, { objective: tf.mul(ratio, advantages!), weights: weights! });
  },
};

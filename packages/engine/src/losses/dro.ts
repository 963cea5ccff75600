import { tf } from '@anneal/tensorflow';
import { z } from 'zod';
import type { LossDefinition } from './loss.ts';
import { policyInputs, policyResult } from './policy.ts';
import {
  baseLogprobsInput,
  checkReference,
  type ReferenceConfig,
  referenceInput,
  referenceOptions,
} from './reference-kl.ts';

interface DroConfig extends ReferenceConfig {
  readonly beta: number;
}

/**
 * −Σ (log p · A − β/2 · (log p − log q)²). TINKER-API section 9; Richemond et al., "Offline Regularised Reinforcement
 * Learning for LLMs Alignment", arXiv 2405.19107.
 *
 * The quadratic term holds at every position, advantage or not, so prompt positions filled with target 0 and logprob 0
 * pull the model towards token 0: give them weight 0.
 */
export const dro: LossDefinition<DroConfig> = {
  name: 'dro',
  config: z.strictObject({ beta: z.number().min(0).default(0.05), ...referenceOptions }),
  inputs: { ...policyInputs, ...referenceInput },
  baseLogprobsInput,
  validate: checkReference,
  compute: (batch, config) => {
    const { advantages, weights, logprobs: sampling } = batch.inputs;
    const logprobs = tf.where(tf.notEqual(weights!, 0), batch.logprobs, sampling!);
    const distance = tf.square(tf.sub(logprobs, sampling!));
    const objective = tf.sub(tf.mul(logprobs, advantages!), tf.mul(distance, config.beta / 2));
    return policyResult(batch, config, { objective, weights: weights! });
  },
};

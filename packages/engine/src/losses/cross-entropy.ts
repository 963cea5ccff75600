import { tf } from '@anneal/tensorflow';
import { z } from 'zod';
import type { LossDefinition } from './loss.ts';

/**
 * −Σ w · log p(target). Weights may be any real number; with [T, K] targets the K soft labels of a position add up.
 * TINKER-API section 9.1.
 */
export const crossEntropy: LossDefinition = {
  name: 'cross_entropy',
  config: z.strictObject({}),
  inputs: { weights: { default: 1 } },
  allowsTopK: true,
  linearWeights: 'weights',
  compute: ({ logprobs, inputs }) => {
    const elementwise = tf.neg(tf.mul(inputs.weights!, logprobs));
    return { loss: tf.sum(elementwise), elementwise, metrics: {} };
  },
};

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
    const weights = inputs.weights!;
    const scored = tf.where(tf.notEqual(weights, 0), logprobs, 0);
    const terms = tf.neg(tf.mul(weights, scored));
    const elementwise = terms.rank === 3 ? tf.sum(terms, -1) : terms;
    return { loss: tf.sum(elementwise), elementwise, metrics: {} };
  },
};

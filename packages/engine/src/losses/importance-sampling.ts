import { tf } from '@anneal/tensorflow';
import { z } from 'zod';
import type { LossDefinition } from './loss.ts';

/** −Σ r · A with r = exp(log p − log q), unclipped. TINKER-API section 9.2. */
export const importanceSampling: LossDefinition = {
  name: 'importance_sampling',
  config: z.strictObject({}),
  inputs: { logprobs: {}, advantages: {} },
  compute: ({ logprobs, inputs }) => {
    const ratio = tf.exp(tf.sub(logprobs, inputs.logprobs!));
    const elementwise = tf.neg(tf.mul(ratio, inputs.advantages!));
    return { loss: tf.sum(elementwise), elementwise, metrics: {} };
  },
};

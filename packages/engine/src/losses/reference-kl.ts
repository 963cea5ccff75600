/** The penalty of the policy losses against a reference model: options, input, checks, formula. */
import { type Tensor, tf } from '@anneal/tensorflow';
import { z } from 'zod';
import { type EngineDatum, EngineError } from '../engine.ts';
import type { LossBatch, LossInput } from './loss.ts';

/** Keys of `loss_fn_config`. */
export const referenceOptions = {
  /** Factor of the penalty; 0 only reports it. Absent: no reference is read. */
  kl_coeff: z.number().min(0).optional(),
  /** `given` (default): the input `ref_logprobs`. `base`: the server computes them with the adapter off. */
  reference: z.enum(['given', 'base']).optional(),
};

export interface ReferenceConfig {
  readonly [key: string]: unknown;
  readonly kl_coeff?: number;
  readonly reference?: 'given' | 'base';
}

export const referenceInput: Record<'ref_logprobs', LossInput<ReferenceConfig>> = {
  ref_logprobs: { fill: (_datum, { kl_coeff }) => (kl_coeff === undefined ? 0 : undefined) },
};

export function baseLogprobsInput({ kl_coeff, reference }: ReferenceConfig): string | undefined {
  return kl_coeff !== undefined && reference === 'base' ? 'ref_logprobs' : undefined;
}

/** @throws EngineError (user) where a reference is given that would not be read. */
export function checkReference(data: EngineDatum[], { kl_coeff, reference }: ReferenceConfig): void {
  if (kl_coeff === undefined && reference !== undefined) {
    throw new EngineError(
      'user',
      `loss_fn_config.reference is "${reference}", but nothing is compared with it: set kl_coeff (0 only reports kl_ref:mean), or leave reference out.`,
    );
  }
  const given = data.findIndex(({ inputs }) => inputs.ref_logprobs !== undefined);
  if (given < 0 || (kl_coeff !== undefined && reference !== 'base')) return;
  throw new EngineError(
    'user',
    `data[${given}].loss_fn_inputs.ref_logprobs would not be read: ${
      kl_coeff === undefined
        ? 'set loss_fn_config.kl_coeff (0 only reports kl_ref:mean), or leave ref_logprobs out.'
        : 'loss_fn_config.reference is "base", so the server computes them; leave one of the two out.'
    }`,
  );
}

/**
 * Estimate of KL(model ‖ reference) at the `actions`, 0 elsewhere: exp(d) − d − 1 with d = log p_ref − log p. Never
 * negative, and the form that GRPO penalises (arXiv 2402.03300, equation 4; "k3" of http://joschu.net/blog/kl-approx.html).
 * @returns [datums, time], or undefined where the config names no `kl_coeff`.
 */
export function referenceKl(batch: LossBatch, config: ReferenceConfig, actions: Tensor): Tensor | undefined {
  if (config.kl_coeff === undefined) return undefined;
  const d = tf.where(actions, tf.sub(batch.inputs.ref_logprobs!, batch.logprobs), 0);
  return tf.sub(tf.expm1(d), d);
}

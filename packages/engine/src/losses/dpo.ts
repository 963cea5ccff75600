import { type Tensor, tf } from '@anneal/tensorflow';
import { z } from 'zod';
import { type EngineDatum, EngineError } from '../engine.ts';
import { checkPairs, orderOfPairs } from './dpo-pairs.ts';
import type { LossBatch, LossDefinition } from './loss.ts';

interface DpoConfig {
  readonly [key: string]: unknown;
  readonly beta: number;
  readonly label_smoothing: number;
  readonly loss_type: 'sigmoid' | 'ipo' | 'hinge';
  readonly sft_weight: number;
  readonly reference: 'given' | 'base';
  readonly reduction: 'mean' | 'sum';
}

const config = z.strictObject({
  beta: z.number().gt(0).default(0.1),
  /** Share of pairs whose preference is taken to be the wrong way round; for `sigmoid`. */
  label_smoothing: z.number().min(0).max(0.5).default(0),
  loss_type: z.enum(['sigmoid', 'ipo', 'hinge']).default('sigmoid'),
  /** Factor of the negative log-likelihood per token of the chosen sequence. */
  sft_weight: z.number().min(0).default(0),
  /** `base`: the server computes `ref_logprobs` with the adapter off. */
  reference: z.enum(['given', 'base']).default('given'),
  /** Over the pairs of a request. A call that the SDK cuts into requests adds up their means: use `sum` there. */
  reduction: z.enum(['mean', 'sum']).default('mean'),
});

/**
 * Direct preference optimisation over pairs of datums (chosen, rejected): adjacent ones, or two of one `pair_id`. With h = Σ w · (log p − log p_ref) of the chosen
 * sequence minus that of the rejected one, a pair costs
 *
 * - `sigmoid`: −(1 − ε) · log σ(β h) − ε · log σ(−β h), ε = `label_smoothing` (Rafailov et al., arXiv 2305.18290,
 *   equation 7; smoothing from Mitchell, "A note on DPO with noisy preferences", 2023)
 * - `ipo`: (h − 1 / 2β)² (Azar et al., arXiv 2310.12036, equation 17)
 * - `hinge`: max(0, 1 − β h) (Zhao et al., SLiC-HF, arXiv 2305.10425, in the form of Liu et al., arXiv 2309.06657)
 *
 * plus `sft_weight` · −Σ w · log p / Σ w of the chosen sequence (Pang et al., arXiv 2404.19733, equation 1).
 */
export const dpo: LossDefinition<DpoConfig> = {
  name: 'dpo',
  config,
  inputs: {
    ref_logprobs: { fill: (_datum, { reference }) => (reference === 'base' ? 0 : undefined) },
    weights: { default: 1, min: 0 },
    pair_id: { default: 0 },
  },
  groupSize: 2,
  order: orderOfPairs,
  baseLogprobsInput: ({ reference }) => (reference === 'base' ? 'ref_logprobs' : undefined),
  validate: (data, parsed) => {
    checkOptions(data, parsed);
    checkPairs(data);
  },
  callScale: (data, { reduction }) => (reduction === 'mean' ? 2 / data.length : 1),
  compute: (batch, parsed) => {
    const { beta, sft_weight } = parsed;
    const elementwise = weighted(tf.sub(batch.logprobs, batch.inputs.ref_logprobs!), batch);
    const [chosen, rejected] = splitPairs(tf.sum(elementwise, -1));
    const difference = tf.sub(chosen, rejected);
    const nll = sft_weight > 0 ? chosenNll(batch) : undefined;
    const preference = preferenceLoss(difference, parsed);
    const perPair = nll ? tf.add(preference, tf.mul(nll, sft_weight)) : preference;
    return {
      loss: tf.sum(perPair),
      elementwise,
      metrics: {
        'accuracy:mean': tf.mean(tf.cast(tf.greater(difference, 0), 'float32')),
        'margin:mean': tf.mul(tf.mean(difference), beta),
        'chosen_reward:mean': tf.mul(tf.mean(chosen), beta),
        'rejected_reward:mean': tf.mul(tf.mean(rejected), beta),
        ...(nll && { 'sft_nll:mean': tf.mean(nll) }),
      },
    };
  },
};

/** weights · values; positions of weight 0 stay out, whatever they hold. */
function weighted(values: Tensor, { inputs }: LossBatch): Tensor {
  const weights = inputs.weights!;
  return tf.mul(tf.where(tf.notEqual(weights, 0), values, 0), weights);
}

/** [datums] as chosen and rejected, [pairs] each. */
function splitPairs(perDatum: Tensor): [Tensor, Tensor] {
  const [chosen, rejected] = tf.unstack(tf.reshape(perDatum, [-1, 2]), 1);
  return [chosen!, rejected!];
}

/** @param h What the model prefers the chosen sequence by, against the reference: [pairs]. */
function preferenceLoss(h: Tensor, { beta, loss_type, label_smoothing }: DpoConfig): Tensor {
  const scaled = tf.mul(h, beta);
  if (loss_type === 'ipo') return tf.square(tf.sub(h, 1 / (2 * beta)));
  if (loss_type === 'hinge') return tf.relu(tf.sub(1, scaled));
  // softplus(−x) is −log σ(x); tfjs's own logSigmoid loses its input before the gradient is taken.
  const asLabelled = tf.softplus(tf.neg(scaled));
  if (label_smoothing === 0) return asLabelled;
  return tf.add(tf.mul(asLabelled, 1 - label_smoothing), tf.mul(tf.softplus(scaled), label_smoothing));
}

/** Negative log-likelihood per token of the chosen sequences, [pairs]; 0 where nothing has weight. */
function chosenNll(batch: LossBatch): Tensor {
  const [total] = splitPairs(tf.sum(weighted(batch.logprobs, batch), -1));
  const [tokens] = splitPairs(tf.sum(batch.inputs.weights!, -1));
  return tf.neg(tf.div(total, tf.maximum(tokens, 1e-6)));
}

function checkOptions(data: EngineDatum[], { reference, loss_type, label_smoothing }: DpoConfig): void {
  if (label_smoothing > 0 && loss_type !== 'sigmoid') {
    throw new EngineError(
      'user',
      `loss_fn_config.label_smoothing is ${label_smoothing}, which only loss_type "sigmoid" knows; loss_type is "${loss_type}": leave label_smoothing out.`,
    );
  }
  const given = data.findIndex(({ inputs }) => inputs.ref_logprobs !== undefined);
  if (reference === 'base' && given >= 0) {
    throw new EngineError(
      'user',
      `data[${given}].loss_fn_inputs.ref_logprobs would not be read: loss_fn_config.reference is "base", so the server computes them; leave one of the two out.`,
    );
  }
}

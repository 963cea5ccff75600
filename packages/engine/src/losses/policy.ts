/**
 * What the policy losses share: their inputs, which positions are actions, the optional penalty against a reference
 * model, and the metrics. A loss adds its objective per position.
 */
import { type Tensor, tf } from '@anneal/tensorflow';
import type { LossBatch, LossConfig, LossInput, LossResult } from './loss.ts';
import { type ReferenceConfig, referenceKl } from './reference-kl.ts';

/** Importance ratios are capped here in metrics, and only there, so that a metric is always a finite number. */
const MAX_LOG_RATIO = 60;

/** `logprobs` are those of the sampler, q. `weights` multiply a position's whole term; 0 leaves it out. */
export const policyInputs: Record<'logprobs' | 'advantages' | 'weights', LossInput<LossConfig>> = {
  logprobs: {},
  advantages: {},
  weights: { default: 1, min: 0 },
};

export interface PolicyObjective {
  /** What is to be maximised at each position, before weighting: [datums, time]. */
  objective: Tensor;
  /** Factor of each position's term; 0 leaves it out. */
  weights: Tensor;
  /** Where clipping made the gradient vanish, or would have: bool [datums, time]. */
  clipped?: Tensor;
}

/**
 * log p − log q where `advantages` and `weights` are not zero, else 0. Elsewhere the ratio is multiplied by zero, and
 * leaving it out of `exp` keeps ∞ · 0 away: prompt positions carry target 0, whose logprob may be anything.
 */
export function scoredLogRatio({ logprobs, inputs }: LossBatch, weights: Tensor): Tensor {
  const scored = tf.logicalAnd(tf.notEqual(inputs.advantages!, 0), tf.notEqual(weights, 0));
  return tf.where(scored, tf.sub(logprobs, inputs.logprobs!), 0);
}

/** −Σ weights · objective, plus the penalty against the reference where the config asks for one. */
export function policyResult(
  batch: LossBatch,
  config: ReferenceConfig,
  { objective, weights, clipped }: PolicyObjective,
): LossResult {
  const actions = actionPositions(batch, weights);
  const surrogate = tf.neg(tf.mul(objective, weights));
  const kl = referenceKl(batch, config, actions);
  const elementwise = kl ? tf.add(surrogate, tf.mul(kl, tf.mul(weights, config.kl_coeff!))) : surrogate;
  const metrics = policyMetrics(batch, actions);
  if (clipped) metrics['clip_fraction:mean'] = datumMean(clipped, actions);
  if (kl) metrics['kl_ref:mean'] = datumMean(kl, actions);
  return { loss: tf.sum(elementwise), elementwise, metrics };
}

/** Sampled positions, bool: those that carry an advantage or a sampling logprob. Prompt positions carry neither. */
function actionPositions({ inputs }: LossBatch, weights: Tensor): Tensor {
  const carries = tf.logicalOr(tf.notEqual(inputs.advantages!, 0), tf.notEqual(inputs.logprobs!, 0));
  return tf.logicalAnd(carries, tf.notEqual(weights, 0));
}

/**
 * `kl:mean` estimates KL(sampler ‖ model) by r − 1 − log r (k3 of http://joschu.net/blog/kl-approx.html); `entropy:mean`
 * is −log p of the sampled tokens, which estimates the entropy as long as sampler and model are close.
 */
function policyMetrics({ logprobs, inputs }: LossBatch, actions: Tensor): Record<string, Tensor> {
  const logRatio = tf.where(actions, tf.sub(logprobs, inputs.logprobs!), 0);
  const capped = tf.minimum(logRatio, MAX_LOG_RATIO);
  return {
    'kl:mean': datumMean(tf.sub(tf.expm1(capped), capped), actions),
    'ratio:max': tf.max(tf.where(actions, tf.exp(capped), 0)),
    'entropy:mean': datumMean(tf.neg(logprobs), actions),
  };
}

/**
 * Mean over datums of each datum's mean over its `positions`, so that folding parts of a call by their number of datums
 * gives the same as one part. A datum without such positions counts as 0.
 */
function datumMean(values: Tensor, positions: Tensor): Tensor {
  const sums = tf.sum(tf.where(positions, tf.cast(values, 'float32'), 0), -1);
  const counts = tf.sum(tf.cast(positions, 'float32'), -1);
  return tf.mean(tf.div(sums, tf.maximum(counts, 1)));
}

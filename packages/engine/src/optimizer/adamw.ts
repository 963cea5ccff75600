/** AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) over an adapter, with clipping by the global norm. */
import {
  canCallNatively,
  compile,
  nativeAdamStep,
  nativeSquaredNorm,
  type Tensor,
  tf,
} from '@anneal/tensorflow';
import { type AdamParams, EngineError } from '../engine.ts';

/** Steps taken so far, and the moments. */
export interface AdamState {
  step: number;
  /** Undefined until the first gradient: zero, and no memory taken. */
  moments: Moments | undefined;
}

/** First and second moments in the order of the parameters, float32. */
export interface Moments {
  m: Tensor[];
  v: Tensor[];
}

export function createAdamState(): AdamState {
  return { step: 0, moments: undefined };
}

export function zeroMoments(parameters: Tensor[]): Moments {
  const zeros = () => parameters.map((p) => tf.zeros(p.shape));
  return { m: zeros(), v: zeros() };
}

export function disposeAdamState({ moments }: AdamState): void {
  if (moments) tf.dispose([...moments.m, ...moments.v]);
}

const squaredNorm = compile('grad_norm', ({ grads }: { grads: Tensor[] }) => ({
  total: tf.sum(tf.stack(grads.map((g) => tf.sum(tf.square(g))))),
}));

interface UpdateInputs {
  [key: string]: Tensor | Tensor[];
  params: Tensor[];
  grads: Tensor[];
  m: Tensor[];
  v: Tensor[];
  /** {@link SCALARS}, as a tensor so that a schedule needs no new trace. */
  scalars: Tensor;
}

const SCALARS = ['clip', 'beta1', 'beta2', 'decay', 'step', 'vFactor', 'eps'] as const;

const update = compile('adamw', ({ params, grads, m, v, scalars }: UpdateInputs) => {
  const [clip, beta1, beta2, decay, stepSize, correction2, eps] = tf.unstack(scalars) as Tensor[];
  const results = params.map((p, i) => {
    const g = tf.mul(grads[i]!, clip!);
    const nextM = tf.add(tf.mul(m[i]!, beta1!), tf.mul(g, tf.sub(1, beta1!)));
    const nextV = tf.add(tf.mul(v[i]!, beta2!), tf.mul(tf.square(g), tf.sub(1, beta2!)));
    const denominator = tf.add(tf.sqrt(tf.mul(nextV, correction2!)), eps!);
    return {
      p: tf.sub(tf.mul(p, decay!), tf.div(tf.mul(nextM, stepSize!), denominator)),
      m: nextM,
      v: nextV,
    };
  });
  return { params: results.map((r) => r.p), m: results.map((r) => r.m), v: results.map((r) => r.v) };
});

/** Global L2 norm of gradients. */
export function gradNorm(grads: Tensor[]): number {
  if (canCallNatively()) return Math.sqrt(nativeSquaredNorm(grads));
  const { total } = squaredNorm({ grads });
  const value = Math.sqrt(total.dataSync()[0] as number);
  total.dispose();
  return value;
}

/** What a gradient of zero leaves of the parameters while the moments are zero. */
const decayed = compile('adamw_decay', ({ params, keep }: { params: Tensor[]; keep: Tensor }) => ({
  params: params.map((p) => tf.mul(p, keep)),
}));

/**
 * One step (TINKER-API section 11): p ← p (1 − lr·wd); m, v ← moments of the clipped gradient;
 * p ← p − lr · (m / (1 − β₁ᵗ)) / (√(v / (1 − β₂ᵗ)) + ε).
 *
 * @param grads Undefined: zero
 * @returns New parameters, which the caller owns, undefined where nothing changes; `state` is advanced in place and its old
 * tensors are freed.
 * @throws EngineError (user) when the gradient is not finite; nothing has changed then.
 */
export function adamwStep(
  parameters: Tensor[],
  grads: Tensor[] | undefined,
  state: AdamState,
  hyper: AdamParams,
): { parameters: Tensor[] | undefined; norm: number } {
  const { learningRate, weightDecay } = hyper;
  if (grads) return stepByGradient(parameters, grads, state, hyper);
  if (!state.moments) {
    state.step++;
    if (learningRate * weightDecay === 0) return { parameters: undefined, norm: 0 };
    const keep = tf.scalar(1 - learningRate * weightDecay);
    const { params } = decayed({ params: parameters, keep });
    keep.dispose();
    return { parameters: params, norm: 0 };
  }
  const zeros = parameters.map((p) => tf.zerosLike(p));
  const stepped = stepByGradient(parameters, zeros, state, hyper);
  tf.dispose(zeros);
  return stepped;
}

function stepByGradient(parameters: Tensor[], grads: Tensor[], state: AdamState, hyper: AdamParams) {
  const norm = gradNorm(grads);
  if (!Number.isFinite(norm)) {
    throw new EngineError(
      'user',
      `The gradient is not finite (norm ${norm}): the step was not taken and the gradient dropped. Lower the learning rate, or look for extreme weights or advantages.`,
    );
  }
  const { learningRate, beta1, beta2, eps, weightDecay, gradClipNorm } = hyper;
  const step = state.step + 1;
  const clip = gradClipNorm > 0 && norm > gradClipNorm ? gradClipNorm / norm : 1;
  const scalars = {
    clip,
    beta1,
    beta2,
    decay: 1 - learningRate * weightDecay,
    step: learningRate / (1 - beta1 ** step),
    vFactor: 1 / (1 - beta2 ** step),
    eps,
  };
  const moments = state.moments ?? zeroMoments(parameters);
  if (canCallNatively()) {
    const next = nativeAdamStep({ parameters, gradients: grads, ...moments }, scalars);
    Object.assign(state, { step, moments });
    return { parameters: next, norm };
  }
  const values = tf.tensor1d(SCALARS.map((name) => scalars[name]));
  const next = update({ params: parameters, grads, ...moments, scalars: values });
  tf.dispose([values, ...moments.m, ...moments.v]);
  Object.assign(state, { step, moments: { m: next.m, v: next.v } });
  return { parameters: next.params, norm };
}

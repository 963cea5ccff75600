/** AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) over an adapter, with clipping by the global norm. */
import { compile, type Tensor, tf } from '@anneal/tensorflow';
import { type AdamParams, EngineError } from '../engine.ts';

/** First and second moments in the order of the parameters, and the number of steps taken. All float32. */
export interface AdamState {
  step: number;
  m: Tensor[];
  v: Tensor[];
}

export function createAdamState(parameters: Tensor[]): AdamState {
  const zeros = () => parameters.map((p) => tf.zeros(p.shape));
  return { step: 0, m: zeros(), v: zeros() };
}

export function disposeAdamState({ m, v }: AdamState): void {
  tf.dispose([...m, ...v]);
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
  /** [clipScale, beta1, beta2, decay, stepSize, correction2, eps], so that a schedule needs no new trace. */
  scalars: Tensor;
}

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
  const { total } = squaredNorm({ grads });
  const value = Math.sqrt(total.dataSync()[0] as number);
  total.dispose();
  return value;
}

/**
 * One step (TINKER-API section 11): p ← p (1 − lr·wd); m, v ← moments of the clipped gradient;
 * p ← p − lr · (m / (1 − β₁ᵗ)) / (√(v / (1 − β₂ᵗ)) + ε).
 *
 * @returns New parameters, which the caller owns; `state` is advanced in place and its old tensors are freed.
 * @throws EngineError (user) when the gradient is not finite; nothing has changed then.
 */
export function adamwStep(
  parameters: Tensor[],
  grads: Tensor[],
  state: AdamState,
  hyper: AdamParams,
): { parameters: Tensor[]; norm: number } {
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
  const scalars = tf.tensor1d([
    clip,
    beta1,
    beta2,
    1 - learningRate * weightDecay,
    learningRate / (1 - beta1 ** step),
    1 / (1 - beta2 ** step),
    eps,
  ]);
  const next = update({ params: parameters, grads, m: state.m, v: state.v, scalars });
  tf.dispose([scalars, ...state.m, ...state.v]);
  Object.assign(state, { step, m: next.m, v: next.v });
  return { parameters: next.params, norm };
}

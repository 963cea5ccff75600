/** AdamW over many tensors in one call: see native/adamw.h. */
import { tensorIds, wrapTensor } from './backend.ts';
import { DataType } from './binding.ts';
import { nativeCalls } from './native-calls.ts';
import { profiled } from './profile.ts';
import type { Tensor } from './tf.ts';

/** Tensors of the same shapes, in turn. */
export interface AdamTensors {
  parameters: Tensor[];
  gradients: Tensor[];
  m: Tensor[];
  v: Tensor[];
}

export interface AdamScalars {
  /** What gradients are multiplied by. */
  clip: number;
  beta1: number;
  beta2: number;
  /** What is left of parameters before the step. */
  decay: number;
  /** The learning rate over the bias of m. */
  step: number;
  /** One over the bias of v. */
  vFactor: number;
  eps: number;
}

/** The sum of the squares of all values. */
export function nativeSquaredNorm(tensors: Tensor[]): number {
  return profiled('call', 'grad_norm', () => nativeCalls().squaredNorm(Int32Array.from(tensorIds(tensors))));
}

/** The next parameters, which are the caller's; m and v change in place. */
export function nativeAdamStep(tensors: AdamTensors, scalars: AdamScalars): Tensor[] {
  const { clip, beta1, beta2, decay, step, vFactor, eps } = scalars;
  const { parameters, gradients, m, v } = tensors;
  const [p, g, mIds, vIds] = [parameters, gradients, m, v].map((list) =>
    Int32Array.from(tensorIds(list)),
  ) as [Int32Array, Int32Array, Int32Array, Int32Array];
  const values = Float32Array.of(clip, beta1, beta2, decay, step, vFactor, eps);
  const ids = profiled('call', 'adamw', () => nativeCalls().adamStep(p, g, mIds, vIds, values));
  return ids.map((id, i) => wrapTensor({ id, shape: parameters[i]!.shape, dtype: DataType.float32 }));
}

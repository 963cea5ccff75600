/** Hidden rows to log-probabilities of targets, and back, in one call: see native/training_head.h. */
import { wrapTensor } from './backend.ts';
import { DataType } from './binding.ts';
import { nativeCalls } from './native-calls.ts';
import { profiled } from './profile.ts';
import { idsOrNone } from './tensor-ids.ts';
import type { Tensor } from './tf.ts';

export interface TrainingHeadInputs {
  /** After the final norm, [rows, hidden]; rows beyond those of the targets do not count. */
  h: Tensor;
  /** [vocab, hidden] */
  weight: Tensor;
  /** A [rank, hidden] and B [vocab, rank]. */
  lora: { a: Tensor; b: Tensor; scale: number } | undefined;
  bfloat16Products: boolean;
  /** [rows, k] */
  targets: Int32Array;
  k: number;
}

/** Gradients of Σ dlogprobs · logprobs, which are the caller's. */
export interface TrainingHeadGradients {
  /** As h; zero where rows do not count. */
  dh: Tensor;
  da?: Tensor;
  db?: Tensor;
}

/** Log-probabilities of the targets, [rows, k]. */
export function trainingHead(inputs: TrainingHeadInputs): { logprobs: Float32Array };
/** @param dlogprobs [rows, k] */
export function trainingHead(
  inputs: TrainingHeadInputs,
  dlogprobs: Float32Array,
): { logprobs: Float32Array; gradients: TrainingHeadGradients };
export function trainingHead(
  { h, weight, lora, bfloat16Products, targets, k }: TrainingHeadInputs,
  dlogprobs?: Float32Array,
): { logprobs: Float32Array; gradients?: TrainingHeadGradients } {
  const [rowsOfH, hidden] = h.shape as [number, number];
  const [vocab, rank] = [weight.shape[0] as number, (lora?.a.shape[0] as number | undefined) ?? 0];
  const [hId, weightId, a, b] = idsOrNone([h, weight, lora?.a, lora?.b]) as unknown as number[];
  const logprobs = new Float32Array(targets.length);
  const call = {
    sizes: Int32Array.of(rowsOfH, targets.length / k, hidden, vocab, k, rank),
    ...{ h: hId!, weight: weightId!, a: a!, b: b!, scale: lora?.scale ?? 0, bfloat16Products },
    ...{ targets, logprobs },
    ...(dlogprobs ? { dlogprobs } : {}),
  };
  const name = dlogprobs ? 'head_gradients' : 'head_logprobs';
  const ids = profiled('call', name, () => nativeCalls().trainingHead(call));
  if (!dlogprobs) return { logprobs };
  const [dh, da, db] = [
    [rowsOfH, hidden],
    [rank, hidden],
    [vocab, rank],
  ].map((shape, i) =>
    ids[i] === undefined ? undefined : wrapTensor({ id: ids[i], shape, dtype: DataType.float32 }),
  );
  return { logprobs, gradients: { dh: dh!, ...(da && db ? { da, db } : {}) } };
}

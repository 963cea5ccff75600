/** Hidden states to logits, best and drawn tokens in one call: see native/fused_head.h. */
import { tensorIds, wrapTensor } from './backend.ts';
import { DataType, type FusedHeadCall, type FusedHeadResults } from './binding.ts';
import { nativeCalls } from './native-calls.ts';
import { profiled } from './profile.ts';
import type { Tensor } from './tf.ts';

/** {@link FusedHeadCall} with tensors where those are as good as ids. */
export type FusedHeadInputs = Omit<FusedHeadCall, 'sizes' | 'x' | 'norm' | 'weight' | 'results'> & {
  /** [rows, hidden], before the final norm; dimensions of 1 may lie between */
  x: Tensor;
  norm: Tensor;
  /** [vocab, hidden] */
  weight: Tensor;
};

/** The logits, [rows, vocab], are the caller's. */
export function fusedHead({
  x,
  norm,
  weight,
  ...rest
}: FusedHeadInputs): FusedHeadResults & { logits: Tensor } {
  const [rows, [vocab, hidden]] = [rest.adapterOfRow.length, weight.shape as [number, number]];
  const ids = tensorIds([x, norm, weight]) as [number, number, number];
  const results: FusedHeadResults = {
    argmax: new Int32Array(rows),
    drawn: new Int32Array(rows),
    argmaxLogit: new Float32Array(rows),
    drawnLogit: new Float32Array(rows),
    logTotal: new Float32Array(rows),
    mass: new Float32Array(rows),
  };
  const call = {
    ...rest,
    sizes: Int32Array.of(hidden, vocab),
    x: ids[0],
    norm: ids[1],
    weight: ids[2],
    results,
  };
  const id = profiled('op', 'fused_head', () => nativeCalls().fusedHead(call));
  return { ...results, logits: wrapTensor({ id, shape: [rows, vocab], dtype: DataType.float32 }) };
}

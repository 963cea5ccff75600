/** Attention of one query per sequence over what a cache holds, as one op: see native/cached_attention.h. */
import { graphBinding, rawOp } from './backend.ts';
import type { NativeBinding } from './binding.ts';
import { type RecordedOp, xlaCall } from './compile/xla-call.ts';
import type { Tensor } from './tf.ts';

export const CACHED_ATTENTION = 'AnnealCachedAttention';

export type CachedAttentionInputs = {
  /** Already scaled: [heads, slots, group, key dim]. */
  q: Tensor;
  /** [heads, slots, capacity, key or value dim] */
  past: { k: Tensor; v: Tensor };
  /** The same of the positions that steps still replace. */
  recent: { k: Tensor; v: Tensor };
  /** Added to the scores: [1, slots, 1, capacity], and of the recent positions. What is far below zero is not looked at. */
  masks: { past: Tensor; recent: Tensor };
  /** A further logit per query, which takes its share of the softmax and mixes nothing: heads · group values. */
  sinks?: Tensor | undefined;
};

/**
 * softmax(q kᵀ + mask) v, over past and recent positions together. All float32.
 * @returns [heads, slots, group, value dim]; undefined where the op is missing: without our addon, and on a GPU.
 */
export function cachedAttention({
  q,
  past,
  recent,
  masks,
  sinks,
}: CachedAttentionInputs): Tensor | undefined {
  const binding = graphBinding();
  if (!binding || binding.isUsingGpuDevice()) return undefined;
  const inputs = [q, past.k, past.v, masks.past, recent.k, recent.v, masks.recent, ...(sinks ? [sinks] : [])];
  const attrs = [{ name: 'N', type: binding.TF_ATTR_INT, value: inputs.length }];
  return rawOp(CACHED_ATTENTION, attrs, inputs, 1)[0];
}

/** The call to record in a function that XLA compiles, with inputs of these shapes, in the order above. */
export function xlaCachedAttention(binding: NativeBinding, shapes: number[][]): RecordedOp {
  const [q, , values, , recent] = shapes as [number[], number[], number[], number[], number[]];
  const valueDim = values[3]!;
  const config = [...q, valueDim, values[2]!, recent[2]!, shapes.length === 8 ? 1 : 0].join(' ');
  return xlaCall(binding, CACHED_ATTENTION, config, [...q.slice(0, -1), valueDim]);
}

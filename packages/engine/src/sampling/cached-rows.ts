/** What caches hold of a layer, in the layout that they gather from. */
import type { RowStorage, Tensor } from '@anneal/tensorflow';
import type { StateTensors } from '../layers/recurrent-state.ts';

/** Bytes of a value of keys and values. */
export const ROW_BYTES: Record<RowStorage, number> = { float32: 4, bfloat16: 2 };

/** Keys [heads, positions, key dim] and values [heads, positions, value dim]. */
export type KeysAndValues = {
  k: Tensor;
  v: Tensor;
};

/** One of the two, as the layer's `CacheShape` says: positions of rows one after another, or a state per row, [rows, ...]. */
export type CachedLayer = {
  positions?: KeysAndValues;
  state?: StateTensors;
};

/** What a prefill leaves of its rows, per layer. */
export interface PrefilledRows {
  layers: CachedLayer[];
  /** Where each row's positions begin; those of another may follow them, or padding. */
  starts: number[];
}

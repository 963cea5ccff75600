/** Rows of several tensors in a new order, by one call for many tensors: see native/gather_rows.h. */
import { tensorIds, wrapTensor } from './backend.ts';
import { DataType } from './binding.ts';
import type { Storage } from './filled-tensor.ts';
import { nativeCalls } from './native-calls.ts';
import { profiled } from './profile.ts';
import type { Tensor } from './tf.ts';

/** How rows are kept. */
export type RowStorage = Exclude<Storage, 'int8'>;

/**
 * @param parts Of each new tensor: as many as of the others, [heads, ..., dim], whose rows are counted through; float32, or either for a
 *   `storage` of bfloat16
 * @param index Which of them each row of a head is
 * @param middle What the index is laid out as
 * @param storage What the new tensors are in
 * @returns Per entry of `parts` [heads, ...middle, dim]
 */
export function gatherRows(
  parts: readonly Tensor[][],
  index: Int32Array,
  middle: number[],
  storage: RowStorage,
): Tensor[] {
  const { gatherRows: gather } = nativeCalls();
  const ids = Int32Array.from(tensorIds(parts.flat()));
  const count = parts[0]?.length ?? 1;
  const made = profiled('op', 'gather_rows', () =>
    gather(ids, count, index, Int32Array.from(middle), storage === 'bfloat16'),
  );
  return made.map((id, i) => {
    const { shape } = parts[i]![0]!;
    return wrapTensor({ id, shape: [shape[0]!, ...middle, shape.at(-1)!], dtype: DataType[storage] });
  });
}

/** Rows of several tensors in a new order, by one call for many tensors: see native/gather_rows.h. */
import { tensorIds, wrapTensor } from './backend.ts';
import { DataType } from './binding.ts';
import { nativeCalls } from './native-calls.ts';
import { profiled } from './profile.ts';
import type { Tensor } from './tf.ts';

/**
 * @param parts Of each new tensor: as many as of the others, float32 [heads, ..., dim], whose rows are counted through
 * @param index Which of them each row of a head is
 * @param middle What the index is laid out as
 * @returns Per entry of `parts` [heads, ...middle, dim]
 */
export function gatherRows(parts: readonly Tensor[][], index: Int32Array, middle: number[]): Tensor[] {
  const { gatherRows: gather } = nativeCalls();
  const ids = Int32Array.from(tensorIds(parts.flat()));
  const count = parts[0]?.length ?? 1;
  const made = profiled('op', 'gather_rows', () => gather(ids, count, index, Int32Array.from(middle)));
  return made.map((id, i) => {
    const { shape } = parts[i]![0]!;
    return wrapTensor({ id, shape: [shape[0]!, ...middle, shape.at(-1)!], dtype: DataType.float32 });
  });
}

/** Positions of caches in a new order: one native call on a CPU, a compiled function elsewhere. */
import { canCallNatively, compile, gatherRows, type RowStorage, type Tensor, tf } from '@anneal/tensorflow';

const gatherCompiled = compile(
  'gather_positions',
  ({ parts, index, middle }: { parts: Tensor[][]; index: Tensor; middle: number[] }) =>
    parts.map((own) => {
      const flat = own.map((part) => tf.reshape(part, [part.shape[0]!, -1, part.shape.at(-1)!]));
      const rows = flat.length === 1 ? flat[0]! : tf.concat(flat, 1);
      const [heads, , dim] = rows.shape as [number, number, number];
      return tf.reshape(tf.gather(rows, index as never, 1), [heads, ...middle, dim]) as Tensor;
    }),
);

/**
 * @param parts Of each new tensor, [heads, ..., dim]: their positions are counted through
 * @param index Which of them each new position is
 * @param middle What the index is laid out as
 * @param storage Of the new tensors; other than float32 only where {@link canCallNatively}
 * @returns Per entry of `parts` [heads, ...middle, dim]
 */
export function gatherPositions(
  parts: Tensor[][],
  index: Int32Array,
  middle: number[],
  storage: RowStorage = 'float32',
): Tensor[] {
  if (parts.length === 0) return [];
  if (canCallNatively()) return gatherRows(parts, index, middle, storage);
  const indices = tf.tensor1d(index, 'int32') as Tensor;
  const made = gatherCompiled({ parts, index: indices, middle });
  indices.dispose();
  return made;
}

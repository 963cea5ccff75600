/**
 * Matrix products of groups of rows, each group with a matrix of its own: what a mixture of experts computes once its rows
 * are sorted by expert. How many rows a group has is a value and not a shape, so nothing is padded, and no row is left out.
 */
import { currentBackend, isLoaded, rawOp } from './backend.ts';
import { DataType, type OpAttr } from './binding.ts';
import { type Tensor, tf } from './tf.ts';

export interface GroupedMatMulOptions {
  /** Matrices are [out, in], as checkpoints store them, and not [in, out]. */
  transposed: boolean;
  /** Whether matrices have gradients as well as rows. */
  trainable: boolean;
}

/**
 * y = x · matrix of the row's group.
 * @param x [rows, in], the rows of a group next to each other, groups in order
 * @param matrices [groups, in, out], or [groups, out, in] if `transposed`
 * @param sizes int32 [groups], rows per group; they add up to `rows`
 * @returns [rows, out]
 */
export function groupedMatMul(
  x: Tensor,
  matrices: Tensor,
  sizes: Tensor,
  { transposed, trainable }: GroupedMatMulOptions,
): Tensor {
  // What a gradient reads must be saved: tfjs frees what a function made when its forward part ends.
  const op = tf.customGrad((...args) => {
    const [rows, save] = [args[0] as Tensor, args.at(-1) as unknown as (tensors: Tensor[]) => void];
    save([rows, matrices, sizes]);
    const gradFunc = (dy: Tensor, saved: Tensor[]) => {
      const [x, m, counts] = saved as [Tensor, Tensor, Tensor];
      const dx = product(dy, m, counts, !transposed);
      if (!trainable) return dx;
      return [dx, transposed ? outerProducts(dy, x, counts) : outerProducts(x, dy, counts)];
    };
    return { value: product(rows, matrices, sizes, transposed), gradFunc };
  });
  return trainable ? op(x, matrices) : op(x);
}

/** [rows, in] × [groups, in, out] (or transposed) → [rows, out]. */
function product(x: Tensor, matrices: Tensor, sizes: Tensor, transposed: boolean): Tensor {
  const [rows] = x.shape as [number, number];
  const out = matrices.shape[transposed ? 1 : 2] as number;
  const pieces = splitRows(x, sizes);
  const perGroup = tf.unstack(matrices).map((m, i) => matMul(pieces[i]!, m, false, transposed));
  return joinRows(perGroup, [rows, out]);
}

/** Per group aᵀ b: [rows, p], [rows, q] → [groups, p, q]. */
function outerProducts(a: Tensor, b: Tensor, sizes: Tensor): Tensor {
  const right = splitRows(b, sizes);
  return tf.stack(splitRows(a, sizes).map((left, i) => matMul(left, right[i]!, true, false)));
}

/** Rows of each group; in a trace their number is unknown, so only ops of this file may follow. */
function splitRows(x: Tensor, sizes: Tensor): Tensor[] {
  const groups = sizes.shape[0] as number;
  if (!isLoaded()) return tf.split(x, [...sizes.dataSync()], 0);
  const { TF_ATTR_INT: int } = currentBackend().native;
  const axis = tf.scalar(0, 'int32');
  const attrs = [
    { name: 'num_split', type: int, value: groups },
    typeAttr('T', DataType.float32),
    typeAttr('Tlen', DataType.int32),
  ];
  return rawOp('SplitV', attrs, [x, sizes, axis], groups);
}

function matMul(a: Tensor, b: Tensor, transposeA: boolean, transposeB: boolean): Tensor {
  if (!isLoaded()) return tf.matMul(a as never, b as never, transposeA, transposeB);
  const { TF_ATTR_BOOL: bool } = currentBackend().native;
  const attrs = [
    { name: 'transpose_a', type: bool, value: transposeA },
    { name: 'transpose_b', type: bool, value: transposeB },
    typeAttr('T', DataType.float32),
  ];
  return rawOp('MatMul', attrs, [a, b], 1)[0]!;
}

function joinRows(pieces: Tensor[], shape: [number, number]): Tensor {
  if (!isLoaded()) return tf.concat(pieces, 0);
  const { TF_ATTR_INT: int, TF_ATTR_SHAPE: shapeType } = currentBackend().native;
  const axis = tf.scalar(0, 'int32');
  const attrs = [
    { name: 'N', type: int, value: pieces.length },
    typeAttr('T', DataType.float32),
    typeAttr('Tidx', DataType.int32),
  ];
  const [joined] = rawOp('ConcatV2', attrs, [...pieces, axis], 1);
  const ensured = [typeAttr('T', DataType.float32), { name: 'shape', type: shapeType, value: shape }];
  return rawOp('EnsureShape', ensured, [joined!], 1)[0]!;
}

function typeAttr(name: string, dtype: number): OpAttr {
  return { name, type: currentBackend().native.TF_ATTR_TYPE, value: dtype };
}

/** Systems of equations with lower-triangular matrices, differentiable: what delta rules solve in each chunk of a sequence. */
import { currentBackend, isLoaded, rawOp } from './backend.ts';
import { DataType } from './binding.ts';
import { type Tensor, tf } from './tf.ts';

/**
 * X with `lower` · X = `right`, by substitution, in float32 whatever products are computed in. What `lower` holds above its
 * diagonal is not read; its gradient there means nothing, so mask it as the matrix is masked.
 * @param lower [..., n, n], with no zero on the diagonal
 * @param right [..., n, k]
 * @returns [..., n, k]
 */
export function triangularSolve(lower: Tensor, right: Tensor): Tensor {
  return tf.customGrad((...args) => {
    const [l, b, save] = args as unknown as [Tensor, Tensor, (tensors: Tensor[]) => void];
    const x = solve(l, b, false);
    save([l, x]);
    const gradFunc = (dy: Tensor, saved: Tensor[]) => {
      const [matrix, solution] = saved as [Tensor, Tensor];
      const dRight = solve(matrix, dy, true);
      return [tf.neg(tf.matMul(dRight as never, solution as never, false, true)), dRight];
    };
    return { value: x, gradFunc };
  })(lower, right);
}

/** @param adjoint Solve with the transposed matrix. */
function solve(lower: Tensor, right: Tensor, adjoint: boolean): Tensor {
  if (!isLoaded()) return substitute(lower, right, adjoint);
  const { TF_ATTR_BOOL: bool, TF_ATTR_TYPE: type } = currentBackend().native;
  const attrs = [
    { name: 'lower', type: bool, value: true },
    { name: 'adjoint', type: bool, value: adjoint },
    { name: 'T', type, value: DataType.float32 },
  ];
  return rawOp('MatrixTriangularSolve', attrs, [lower, right], 1)[0]!;
}

/** Row by row, where there is no TensorFlow. */
function substitute(lower: Tensor, right: Tensor, adjoint: boolean): Tensor {
  const axes = [-2, -1].map((axis) => right.rank + axis);
  if (adjoint) {
    // Reversed in both directions, a transposed lower matrix is a lower one.
    const swapped = axes.toReversed();
    const transposed = tf.transpose(lower, [...lower.shape.keys()].slice(0, -2).concat(swapped));
    return tf.reverse(substitute(tf.reverse(transposed, axes), tf.reverse(right, axes[0]!), false), axes[0]!);
  }
  const rows = tf.split(lower, lower.shape.at(-2) as number, -2);
  let x: Tensor | undefined;
  tf.split(right, rows.length, -2).forEach((b, i) => {
    const [before, diagonal] = tf.split(rows[i]!, [i, 1, rows.length - i - 1], -1) as [Tensor, Tensor];
    const rest = x ? tf.sub(b, tf.matMul(before as never, x as never)) : b;
    const row = tf.div(rest, diagonal) as Tensor;
    x = x ? tf.concat([x, row], -2) : row;
  });
  return x!;
}

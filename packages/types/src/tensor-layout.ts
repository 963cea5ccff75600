/** Whether flat values, shape and sparse indices belong together. */

/** The parts of a tensor that must agree. */
export interface TensorLayout {
  data: ArrayLike<unknown>;
  shape?: readonly number[] | null;
  sparse_crow_indices?: readonly number[] | null;
  sparse_col_indices?: readonly number[] | null;
}

/** What is wrong, and at which field. */
export interface LayoutProblem {
  path: string[];
  message: string;
}

/** Number of cells of a shape; 1 for a scalar's `[]`. */
export function sizeOf(shape: readonly number[]): number {
  return shape.reduce((product, dimension) => product * dimension, 1);
}

/** `undefined` when the parts agree. */
export function problemWithLayout(tensor: TensorLayout): LayoutProblem | undefined {
  const { data, shape, sparse_crow_indices: crow, sparse_col_indices: col } = tensor;
  if (!crow && !col) {
    if (!shape || sizeOf(shape) === data.length) return undefined;
    return { path: ['shape'], message: `[${shape}] holds ${sizeOf(shape)} values, data has ${data.length}` };
  }
  if (!crow) return { path: ['sparse_crow_indices'], message: 'required with sparse_col_indices' };
  if (!col) return { path: ['sparse_col_indices'], message: 'required with sparse_crow_indices' };
  return problemWithCsr(data.length, shape, crow, col);
}

function problemWithCsr(
  listed: number,
  shape: readonly number[] | null | undefined,
  crow: readonly number[],
  col: readonly number[],
): LayoutProblem | undefined {
  const [rows, columns] = shape ?? [];
  if (shape?.length !== 2 || rows === undefined || columns === undefined) {
    return { path: ['shape'], message: 'a sparse tensor needs a shape of two dimensions' };
  }
  if (crow.length !== rows + 1 || crow[0] !== 0 || crow[rows] !== listed) {
    const message = `must be ${rows + 1} numbers from 0 to ${listed} (the number of listed values)`;
    return { path: ['sparse_crow_indices'], message };
  }
  if (crow.some((start, row) => row > 0 && start < crow[row - 1]!)) {
    return { path: ['sparse_crow_indices'], message: 'must not decrease' };
  }
  if (col.length !== listed) {
    return { path: ['sparse_col_indices'], message: `has ${col.length} numbers for ${listed} listed values` };
  }
  const outside = col.find((column) => column < 0 || column >= columns);
  if (outside === undefined) return undefined;
  return { path: ['sparse_col_indices'], message: `column ${outside} is outside of [0, ${columns})` };
}

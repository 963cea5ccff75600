/** Protobuf `Tensor` to and from typed arrays (servers) and {@link TensorData} (clients). */
import { create } from '@bufbuild/protobuf';
import { DType, type SparseCsr, type Tensor, TensorSchema } from '../gen/tinker_public_pb.ts';
import type { DenseTensor } from '../tensor-convert.ts';
import type { TensorData } from '../tensor-data.ts';
import type { TensorDtype } from '../tensor-dtype.ts';
import { problemWithLayout, sizeOf } from '../tensor-layout.ts';
import * as packed from './packed.ts';
import { WireFormatError } from './wire-format-error.ts';

/** Largest dense form of a sparse tensor, in cells: a few bytes may otherwise ask for any amount of memory. */
const MAX_DENSE_CELLS = 2 ** 27;

/** Values in the width that the wire names; bfloat16 becomes float32. */
export function unpackValues(bytes: Uint8Array, dtype: DType, path: string): Omit<DenseTensor, 'shape'> {
  switch (dtype) {
    case DType.DTYPE_FLOAT32:
      return { dtype: 'float32', data: packed.unpackFloat32(bytes, path) };
    case DType.DTYPE_BFLOAT16:
      return { dtype: 'float32', data: packed.unpackBfloat16(bytes, path) };
    case DType.DTYPE_INT32:
      return { dtype: 'int32', data: packed.unpackInt32(bytes, path) };
    case DType.DTYPE_INT64:
      return { dtype: 'int64', data: packed.unpackInt64(bytes, path) };
    default:
      throw new WireFormatError(path, `dtype ${dtype} is none of float32, int64, int32, bfloat16`);
  }
}

/** Values as the SDK shows them: integers of any width are int64, held as numbers. */
export function unpackNumbers(bytes: Uint8Array, dtype: DType, path: string): Omit<TensorData, 'shape'> {
  if (dtype === DType.DTYPE_INT64) return { dtype: 'int64', data: packed.unpackInt64Numbers(bytes, path) };
  const { data } = unpackValues(bytes, dtype, path);
  return data instanceof Float32Array
    ? { dtype: 'float32', data }
    : { dtype: 'int64', data: data as Int32Array };
}

/** The wire's dimensions as numbers; none means one dimension of all values. */
function readShape(shape: readonly bigint[], count: number | undefined, path: string): number[] {
  const bad = shape.find((dimension) => dimension < 0n || dimension > 2n ** 31n);
  if (bad !== undefined) throw new WireFormatError(path, `shape [${shape}] has the dimension ${bad}`);
  return shape.length === 0 && count !== undefined ? [count] : shape.map(Number);
}

interface CsrIndices {
  sparse_crow_indices: number[];
  sparse_col_indices: number[];
}

function readIndices(csr: SparseCsr, path: string): CsrIndices {
  return {
    sparse_crow_indices: packed.unpackInt64Numbers(csr.crowIndices, `${path}.crow_indices`),
    sparse_col_indices: packed.unpackInt64Numbers(csr.colIndices, `${path}.col_indices`),
  };
}

function checkLayout(layout: Parameters<typeof problemWithLayout>[0], path: string): void {
  const problem = problemWithLayout(layout);
  if (problem) throw new WireFormatError(`${path}.${problem.path.join('.')}`, problem.message);
}

/** Unlisted cells become 0: token 0 with weight 0, which is padding. */
function densify(
  values: Omit<DenseTensor, 'shape'>,
  shape: number[],
  indices: CsrIndices,
  path: string,
): DenseTensor {
  const { sparse_crow_indices: crow, sparse_col_indices: col } = indices;
  checkLayout({ data: values.data, shape, ...indices }, path);
  const [rows = 0, columns = 0] = shape;
  if (rows * columns > MAX_DENSE_CELLS) {
    throw new WireFormatError(path, `shape [${shape}] has more than ${MAX_DENSE_CELLS} cells`);
  }
  const { data } = values;
  const dense = new (data.constructor as new (length: number) => typeof data)(rows * columns);
  for (let row = 0; row < rows; row++) {
    for (let cell = crow[row]!; cell < crow[row + 1]!; cell++)
      dense[row * columns + col[cell]!] = data[cell]!;
  }
  return { dtype: values.dtype, shape, data: dense };
}

/**
 * Row-major typed array; sparse tensors are filled with 0.
 *
 * @param path names the tensor in errors.
 * @throws WireFormatError when bytes, shape and indices do not belong together.
 */
export function decodeTensor(tensor: Tensor, path: string): DenseTensor {
  const { encoding, dtype } = tensor;
  if (encoding.case === 'sparseCsr') {
    const values = unpackValues(encoding.value.values, dtype, path);
    return densify(values, readShape(tensor.shape, undefined, path), readIndices(encoding.value, path), path);
  }
  if (encoding.case !== 'dense') throw new WireFormatError(path, 'has neither dense nor sparse_csr values');
  const values = unpackValues(encoding.value, dtype, path);
  const shape = readShape(tensor.shape, values.data.length, path);
  checkLayout({ data: values.data, shape }, path);
  return { ...values, shape };
}

/**
 * The tensor as a client sees it; a sparse layout stays sparse.
 *
 * @throws WireFormatError when bytes, shape and indices do not belong together.
 */
export function decodeTensorData(tensor: Tensor, path: string): TensorData {
  const { encoding, dtype } = tensor;
  if (encoding.case === 'sparseCsr') {
    const values = unpackNumbers(encoding.value.values, dtype, path);
    const shape = readShape(tensor.shape, undefined, path);
    const sparse = { ...values, shape, ...readIndices(encoding.value, path) };
    checkLayout(sparse, path);
    return sparse;
  }
  if (encoding.case !== 'dense') throw new WireFormatError(path, 'has neither dense nor sparse_csr values');
  const values = unpackNumbers(encoding.value, dtype, path);
  const shape = readShape(tensor.shape, values.data.length, path);
  checkLayout({ data: values.data, shape }, path);
  return { ...values, shape };
}

function packNumbers(values: ArrayLike<number>, dtype: TensorDtype): Uint8Array<ArrayBuffer> {
  return dtype === 'float32' ? packed.packFloat32(values) : packed.packInt64(values);
}

/** A client's tensor as a message; a sparse layout stays sparse. */
export function encodeTensorData(tensor: TensorData): Tensor {
  const values = packNumbers(tensor.data, tensor.dtype);
  const { sparse_crow_indices: crow, sparse_col_indices: col } = tensor;
  const sparse = crow && col;
  return create(TensorSchema, {
    encoding: sparse
      ? {
          case: 'sparseCsr',
          value: { values, crowIndices: packed.packInt64(crow), colIndices: packed.packInt64(col) },
        }
      : { case: 'dense', value: values },
    dtype: tensor.dtype === 'float32' ? DType.DTYPE_FLOAT32 : DType.DTYPE_INT64,
    shape: (tensor.shape ?? []).map(BigInt),
  });
}

/** Wire name of a typed array's elements. */
export function dtypeOf(tensor: Pick<DenseTensor, 'dtype'>): DType {
  const names = { float32: DType.DTYPE_FLOAT32, int32: DType.DTYPE_INT32, int64: DType.DTYPE_INT64 } as const;
  return names[tensor.dtype];
}

/**
 * Refuses a tensor whose values do not fill its shape.
 *
 * @throws WireFormatError naming `path`.
 */
export function checkFilled(tensor: DenseTensor, path: string): void {
  if (sizeOf(tensor.shape) === tensor.data.length) return;
  throw new WireFormatError(path, `shape [${tensor.shape}] does not hold ${tensor.data.length} values`);
}

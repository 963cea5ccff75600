/** Conversions between flat wire values, typed arrays and nested arrays. */

import type { TensorData } from './tensor-data.ts';
import type { TensorDtype } from './tensor-dtype.ts';
import { problemWithLayout, sizeOf } from './tensor-layout.ts';

/** Numbers, or arrays of numbers of equal length at each depth. */
export type NestedArray = number | readonly NestedArray[];

/** The typed arrays a tensor can be made from. */
export type TypedValues =
  | Float32Array
  | Float64Array
  | Int8Array
  | Uint8Array
  | Int16Array
  | Uint16Array
  | Int32Array
  | Uint32Array
  | BigInt64Array;

/** Row-major values in memory. */
export interface DenseTensor {
  dtype: 'float32' | 'int32' | 'int64';
  shape: number[];
  data: Float32Array | Int32Array | BigInt64Array;
}

/**
 * The shape of nested arrays.
 *
 * @throws TypeError for ragged arrays, naming where they differ.
 */
export function nestedShape(values: NestedArray): number[] {
  const shape: number[] = [];
  let level: NestedArray | undefined = values;
  while (Array.isArray(level)) {
    shape.push(level.length);
    level = level[0];
  }
  return shape;
}

function flattenInto(out: number[], values: NestedArray, shape: readonly number[], depth: number): void {
  const expected = shape[depth];
  if (expected === undefined) {
    if (typeof values !== 'number')
      throw new TypeError(`expected numbers at depth ${depth}, got ${typeof values}`);
    out.push(values);
    return;
  }
  if (!Array.isArray(values) || values.length !== expected) {
    const got = Array.isArray(values) ? `${values.length} values` : 'a number';
    throw new TypeError(`ragged array: expected ${expected} values at depth ${depth}, got ${got}`);
  }
  for (const value of values) flattenInto(out, value, shape, depth + 1);
}

function checkedShape(count: number, shape: readonly number[] | undefined): number[] {
  if (!shape) return [count];
  if (sizeOf(shape) !== count) {
    throw new RangeError(`shape [${shape}] holds ${sizeOf(shape)} values, got ${count}`);
  }
  return [...shape];
}

/**
 * From nested (or flat) arrays. Without a dtype: int64 when all values are whole numbers, else float32.
 *
 * @throws TypeError for ragged arrays, or fractions under int64. RangeError when `shape` does not fit.
 */
export function fromArray(values: NestedArray, dtype?: TensorDtype, shape?: readonly number[]): TensorData {
  const natural = nestedShape(values);
  const data: number[] = [];
  flattenInto(data, values, natural, 0);
  const chosen = dtype ?? (data.every(Number.isInteger) ? 'int64' : 'float32');
  const fraction = chosen === 'int64' ? data.find((value) => !Number.isSafeInteger(value)) : undefined;
  if (fraction !== undefined) throw new TypeError(`${fraction} is no int64 value: pass whole numbers`);
  return { data, dtype: chosen, shape: shape ? checkedShape(data.length, shape) : natural };
}

/** int64 values as numbers: an Int32Array where all of them fit. */
function narrow(values: BigInt64Array): number[] | Int32Array {
  const numbers = Array.from(values, Number);
  const unsafe = numbers.findIndex((value) => !Number.isSafeInteger(value));
  if (unsafe >= 0)
    throw new RangeError(`${values[unsafe]} at index ${unsafe} is beyond 2^53: TensorData holds numbers`);
  return numbers.every((value) => value === (value | 0)) ? Int32Array.from(numbers) : numbers;
}

/**
 * From a typed array: floats become float32, integers int64.
 *
 * @throws RangeError when `shape` does not fit, or for int64 values beyond 2^53.
 */
export function fromTyped(values: TypedValues, shape?: readonly number[]): TensorData {
  const checked = checkedShape(values.length, shape);
  if (values instanceof Float32Array) return { data: values, dtype: 'float32', shape: checked };
  if (values instanceof Float64Array)
    return { data: Float32Array.from(values), dtype: 'float32', shape: checked };
  if (values instanceof BigInt64Array) return { data: narrow(values), dtype: 'int64', shape: checked };
  const data = values instanceof Uint32Array ? Array.from(values) : Int32Array.from(values);
  return { data, dtype: 'int64', shape: checked };
}

/** The shape; one dimension where none is given. */
export function shapeOf(tensor: TensorData): number[] {
  return tensor.shape ? [...tensor.shape] : [tensor.data.length];
}

/**
 * The same tensor with the cells that equal `padValue` left out (CSR), where that is smaller; else as it is. For soft targets
 * [T, K] of which most are padding.
 */
export function toSparse(tensor: TensorData, padValue = 0): TensorData {
  const [rows = 0, columns = 0] = shapeOf(tensor);
  if (tensor.sparse_crow_indices || tensor.shape?.length !== 2) return tensor;
  const crow = [0];
  const col: number[] = [];
  const data: number[] = [];
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const value = tensor.data[row * columns + column]!;
      if (value === padValue) continue;
      col.push(column);
      data.push(value);
    }
    crow.push(data.length);
  }
  if (crow.length + col.length + data.length >= rows * columns) return tensor;
  return { ...tensor, data, sparse_crow_indices: crow, sparse_col_indices: col };
}

/** Flat values with every cell present. */
function densify(tensor: TensorData, padValue: number): number[] | Float32Array | Int32Array {
  const { sparse_crow_indices: crow, sparse_col_indices: col } = tensor;
  const problem = problemWithLayout(tensor);
  if (problem) throw new RangeError(`${problem.path.join('.')}: ${problem.message}`);
  if (!crow || !col) return tensor.data;
  const [rows = 0, columns = 0] = shapeOf(tensor);
  const dense = new Array<number>(rows * columns).fill(padValue);
  for (let row = 0; row < rows; row++) {
    for (let cell = crow[row]!; cell < crow[row + 1]!; cell++)
      dense[row * columns + col[cell]!] = tensor.data[cell]!;
  }
  return dense;
}

/**
 * Row-major typed array, sparse cells filled with `padValue`: Float32Array or BigInt64Array, as `dtype` says.
 *
 * @throws RangeError when shape, values and indices do not belong together.
 */
export function toTyped(tensor: TensorData, padValue = 0): DenseTensor {
  const values = densify(tensor, padValue);
  const shape = shapeOf(tensor);
  if (tensor.dtype === 'float32') return { dtype: 'float32', shape, data: Float32Array.from(values) };
  return { dtype: 'int64', shape, data: BigInt64Array.from(Array.from(values, (value) => BigInt(value))) };
}

function nest(values: ArrayLike<number>, shape: readonly number[], offset: number): NestedArray {
  const [count, ...rest] = shape;
  if (count === undefined) return values[offset]!;
  const stride = sizeOf(rest);
  return Array.from({ length: count }, (_, index) => nest(values, rest, offset + index * stride));
}

/**
 * Nested arrays of the tensor's shape, sparse cells filled with `padValue`.
 *
 * @throws RangeError when shape, values and indices do not belong together.
 */
export function toNested(tensor: TensorData, padValue = 0): NestedArray {
  return nest(densify(tensor, padValue), shapeOf(tensor), 0);
}

/**
 * Which matrix products our own op takes over: those of few rows by a large matrix, which decoding consists of. Their time
 * goes into reading the matrix, so it is read once, in the type in which it is kept.
 */
import { DataType, type NativeBinding, type OpAttr } from '../binding.ts';
import { type RecordedOp, xlaCall } from './xla-call.ts';

const OP = 'AnnealSkinnyMatmul';
/** More rows are better served by TensorFlow's general product. */
const MAX_ROWS = 64;
const MAX_ROWS_PER_GROUP = 16;
/** Smaller matrices stay in the caches: XLA multiplies one row by them well, and more rows by a general product that takes long to begin. */
const MIN_ELEMENTS = 4096;
const MIN_ELEMENTS_FOR_ONE_ROW = 32_768;
/** In the order of the native WeightType. */
const STORED_TYPES: number[] = [DataType.float32, DataType.bfloat16, DataType.int8];

interface Factor {
  shape: number[];
  dtype: number;
}

/** Whether `op` is x Wᵀ with few rows: x [1?, m, k], W [1?, n, k]. */
export function isSkinny(op: string, attrs: OpAttr[], factors: Factor[]): boolean {
  if (op !== 'BatchMatMulV2' && op !== 'BatchMatMul') return false;
  const [x, w] = factors as [Factor, Factor];
  const flag = (name: string) => attrs.find((attr) => attr.name === name)?.value === true;
  if (flag('adj_x') || !flag('adj_y') || x.dtype !== DataType.float32 || w.dtype !== DataType.float32)
    return false;
  const [rows, k] = x.shape.slice(-2) as [number, number];
  const batches = [...x.shape.slice(0, -2), ...w.shape.slice(0, -2)];
  const elements = rows === 1 ? MIN_ELEMENTS_FOR_ONE_ROW : MIN_ELEMENTS;
  return batches.every((size) => size === 1) && rows <= MAX_ROWS && k * w.shape.at(-2)! >= elements;
}

/**
 * Whether `op` is x Wᵀ for one of many groups of rows, of which there are few on average: x [?, k], W [n, k].
 * @param rows Of all groups together
 */
export function isSkinnyGroup(
  op: string,
  attrs: OpAttr[],
  factors: Factor[],
  { rows, groups }: { rows: number; groups: number },
): boolean {
  const flag = (name: string) => attrs.find((attr) => attr.name === name)?.value === true;
  if (op !== 'MatMul' || flag('transpose_a') || !flag('transpose_b')) return false;
  const [x, w] = factors as [Factor, Factor];
  if (x.dtype !== DataType.float32 || w.dtype !== DataType.float32) return false;
  return rows <= MAX_ROWS_PER_GROUP * groups && w.shape[0]! * w.shape[1]! >= MIN_ELEMENTS;
}

/** The op to record instead, of TensorFlow's executor or of XLA. */
export function skinnyProduct(binding: NativeBinding, x: Factor, w: Factor, xla: boolean): RecordedOp {
  if (!xla) return { op: OP, attrs: [{ name: 'T', type: binding.TF_ATTR_TYPE, value: w.dtype }] };
  const [rows, k] = x.shape.slice(-2) as [number, number];
  const columns = w.shape.at(-2)!;
  const type = STORED_TYPES.indexOf(w.dtype);
  return xlaCall(binding, OP, `${type} ${rows} ${k} ${columns}`, [...x.shape.slice(0, -1), columns]);
}

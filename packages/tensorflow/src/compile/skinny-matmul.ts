/**
 * Which matrix products our own op takes over: those of few rows by a large matrix, which decoding consists of. Their time
 * goes into reading the matrix, so it is read once, in the type in which it is kept.
 */
import { DataType, type NativeBinding, type OpAttr } from '../binding.ts';

const OP = 'AnnealSkinnyMatmul';
/** More rows are better served by TensorFlow's general product. */
const MAX_ROWS = 64;
const MAX_ROWS_PER_GROUP = 16;
/** Smaller matrices stay in the caches, and inside what XLA fuses. */
const MIN_ELEMENTS = 32_768;
/** In the order of the native WeightType. */
const STORED_TYPES: number[] = [DataType.float32, DataType.bfloat16, DataType.int8];

export interface SkinnyProduct {
  op: string;
  attrs: OpAttr[];
}

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
  return batches.every((size) => size === 1) && rows <= MAX_ROWS && k * w.shape.at(-2)! >= MIN_ELEMENTS;
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
export function skinnyProduct(binding: NativeBinding, x: Factor, w: Factor, xla: boolean): SkinnyProduct {
  const { TF_ATTR_TYPE, TF_ATTR_STRING, TF_ATTR_BOOL, TF_ATTR_SHAPE } = binding;
  if (!xla) return { op: OP, attrs: [{ name: 'T', type: TF_ATTR_TYPE, value: w.dtype }] };
  const [rows, k] = x.shape.slice(-2) as [number, number];
  const columns = w.shape.at(-2)!;
  const type = STORED_TYPES.indexOf(w.dtype);
  return {
    op: 'XlaCustomCallV2',
    attrs: [
      { name: 'call_target_name', type: TF_ATTR_STRING, value: OP },
      { name: 'backend_config', type: TF_ATTR_STRING, value: `${type} ${rows} ${k} ${columns}` },
      { name: 'has_side_effect', type: TF_ATTR_BOOL, value: false },
      { name: 'result_dtypes', type: TF_ATTR_TYPE, value: [DataType.float32] },
      { name: 'result_shapes', type: TF_ATTR_SHAPE, value: [[...x.shape.slice(0, -1), columns]] },
    ],
  };
}

/** Tensors whose values are written straight into the memory where TensorFlow keeps them. */
import { graphBinding, upload, wrapTensor } from './backend.ts';
import { DataType } from './binding.ts';
import { SCALE_BYTES } from './int8.ts';
import { type Tensor, tf } from './tf.ts';

/** How a tensor is kept on the device; in `int8` each row is followed by its scale, as `quantiseRows` has it. */
export type Storage = 'float32' | 'bfloat16' | 'int8';

/** Float32 values, the bits of bfloat16 values, or the bytes of `int8` rows with their scales. */
export type StoredValues = Float32Array<ArrayBuffer> | Uint16Array<ArrayBuffer> | Int8Array<ArrayBuffer>;

const ARRAYS = { float32: Float32Array, bfloat16: Uint16Array, int8: Int8Array };

/** Elements that are stored for a tensor of this shape. */
export function storedShape(storage: Storage, shape: readonly number[]): number[] {
  return storage === 'int8' ? [...shape.slice(0, -1), shape.at(-1)! + SCALE_BYTES] : [...shape];
}

/**
 * A tensor of `shape` whose values `fill` writes, all of them. A copy in JavaScript's memory, which the garbage collector would free
 * much later, is never made where functions can be compiled. bfloat16 and int8 need that too: only compiled functions may touch them,
 * and they claim to be float32.
 * @param fill Its argument can be used until it returns.
 */
export function filledTensor(
  storage: Storage,
  shape: number[],
  fill: (values: StoredValues) => void,
): Tensor {
  const graphs = graphBinding();
  const stored = storedShape(storage, shape);
  if (graphs) {
    const dtype = DataType[storage];
    const id = graphs.createTensorFilled(stored, dtype, (memory) => fill(new ARRAYS[storage](memory)));
    return wrapTensor({ id, shape, dtype });
  }
  if (storage !== 'float32')
    throw new Error(`${storage} needs the addon that Anneal builds; the stock one has float32 only.`);
  const values = new Float32Array(tf.util.sizeFromShape(stored));
  fill(values);
  return upload(tf.tensor(values, shape, 'float32'));
}

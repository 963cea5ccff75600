// Stored bytes to float32, in pieces, so that a large tensor needs no second copy. Free of Node APIs.
import type { Dtype } from './dtype.ts';
import { bfloat16Into, bfloat16ToFloat32, float16Into, float16ToFloat32 } from './float-codecs.ts';

/** Dtypes that {@link widenToFloat32} takes. */
export type FloatDtype = Extract<Dtype, 'F64' | 'F32' | 'F16' | 'BF16'>;

/** Whether tensors of `dtype` can be read as float32. */
export function isFloatDtype(dtype: Dtype): dtype is FloatDtype {
  return dtype === 'F64' || dtype === 'F32' || dtype === 'F16' || dtype === 'BF16';
}

/**
 * Little-endian elements as float32. F64 is rounded to nearest, the others are exact.
 *
 * @param bytes whole elements, at any alignment
 */
export function widenToFloat32(dtype: FloatDtype, bytes: Uint8Array<ArrayBuffer>): Float32Array<ArrayBuffer> {
  const { buffer, byteOffset, byteLength } = bytes.byteOffset % 8 === 0 ? bytes : bytes.slice();
  switch (dtype) {
    case 'F32':
      return new Float32Array(buffer, byteOffset, byteLength / 4);
    case 'F64':
      return Float32Array.from(new Float64Array(buffer, byteOffset, byteLength / 8));
    case 'F16':
      return float16ToFloat32(new Uint16Array(buffer, byteOffset, byteLength / 2));
    case 'BF16':
      return bfloat16ToFloat32(new Uint16Array(buffer, byteOffset, byteLength / 2));
  }
}

/** {@link widenToFloat32} into `out` from `at` on, so that a tensor read in pieces leaves nothing behind. */
export function widenInto(
  dtype: FloatDtype,
  bytes: Uint8Array<ArrayBuffer>,
  out: Float32Array,
  at: number,
): void {
  const { buffer, byteOffset, byteLength } = bytes.byteOffset % 8 === 0 ? bytes : bytes.slice();
  switch (dtype) {
    case 'F32':
      out.set(new Float32Array(buffer, byteOffset, byteLength / 4), at);
      break;
    case 'F64':
      out.set(new Float64Array(buffer, byteOffset, byteLength / 8), at);
      break;
    case 'F16':
      float16Into(new Uint16Array(buffer, byteOffset, byteLength / 2), out, at);
      break;
    case 'BF16':
      bfloat16Into(new Uint16Array(buffer, byteOffset, byteLength / 2), out, at);
  }
}

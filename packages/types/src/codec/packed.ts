/** Packed little-endian arrays. Buffers of a message start anywhere, so arrays are copied to where they align. */
import { WireFormatError } from './wire-format-error.ts';

const TWO_32 = 2 ** 32;

function aligned(bytes: Uint8Array, width: number, path: string): ArrayBuffer {
  if (bytes.byteLength % width !== 0) {
    throw new WireFormatError(path, `${bytes.byteLength} bytes are no whole number of ${width}-byte values`);
  }
  return new Uint8Array(bytes).buffer;
}

export function unpackInt32(bytes: Uint8Array, path: string): Int32Array {
  return new Int32Array(aligned(bytes, 4, path));
}

export function unpackFloat32(bytes: Uint8Array, path: string): Float32Array {
  return new Float32Array(aligned(bytes, 4, path));
}

export function unpackInt64(bytes: Uint8Array, path: string): BigInt64Array {
  return new BigInt64Array(aligned(bytes, 8, path));
}

/** bfloat16 is the upper half of a float32. */
export function unpackBfloat16(bytes: Uint8Array, path: string): Float32Array {
  const halves = new Uint16Array(aligned(bytes, 2, path));
  return new Float32Array(Uint32Array.from(halves, (half) => half << 16).buffer);
}

/**
 * int64 values as numbers.
 *
 * @throws WireFormatError for a value beyond 2^53.
 */
export function unpackInt64Numbers(bytes: Uint8Array, path: string): number[] {
  const words = new Uint32Array(aligned(bytes, 8, path));
  const numbers = new Array<number>(words.length / 2);
  for (let index = 0; index < numbers.length; index++) {
    const value = (words[2 * index + 1]! | 0) * TWO_32 + words[2 * index]!;
    if (!Number.isSafeInteger(value)) throw new WireFormatError(path, `value ${index} is beyond 2^53`);
    numbers[index] = value;
  }
  return numbers;
}

/** Bytes of a typed array, without a copy. */
export function pack(values: ArrayBufferView): Uint8Array<ArrayBuffer> {
  return new Uint8Array(values.buffer as ArrayBuffer, values.byteOffset, values.byteLength);
}

export function packInt32(values: ArrayLike<number>): Uint8Array<ArrayBuffer> {
  return pack(values instanceof Int32Array ? values : Int32Array.from(values));
}

export function packFloat32(values: ArrayLike<number>): Uint8Array<ArrayBuffer> {
  return pack(values instanceof Float32Array ? values : Float32Array.from(values));
}

/** Whole numbers as int64. */
export function packInt64(values: ArrayLike<number>): Uint8Array<ArrayBuffer> {
  const words = new Int32Array(values.length * 2);
  for (let index = 0; index < values.length; index++) {
    const value = values[index]!;
    words[2 * index] = value;
    words[2 * index + 1] = Math.floor(value / TWO_32);
  }
  return pack(words);
}

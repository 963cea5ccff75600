/** Bits per element of every dtype that the safetensors format names (its Rust crate, version 0.7), in the crate's order. */
const BITS = {
  BOOL: 8,
  F4: 4,
  F6_E2M3: 6,
  F6_E3M2: 6,
  U8: 8,
  I8: 8,
  F8_E5M2: 8,
  F8_E4M3: 8,
  F8_E8M0: 8,
  F8_E4M3FNUZ: 8,
  F8_E5M2FNUZ: 8,
  I16: 16,
  U16: 16,
  F16: 16,
  BF16: 16,
  I32: 32,
  U32: 32,
  F32: 32,
  C64: 64,
  F64: 64,
  I64: 64,
  U64: 64,
} as const;

/** Element type of a stored tensor. */
export type Dtype = keyof typeof BITS;

/** Whether `name` is a dtype of the safetensors format. */
export function isDtype(name: string): name is Dtype {
  return Object.hasOwn(BITS, name);
}

/** Names of all dtypes, for messages. */
export const DTYPES: readonly string[] = Object.keys(BITS);

/** Order of the data in a file: the reference implementation writes dtypes of higher rank first, widest foremost. */
export function dtypeRank(dtype: Dtype): number {
  return DTYPES.indexOf(dtype);
}

/** Bits that one element of `dtype` takes (4 for F4, 16 for BF16). */
export function bitsPerElement(dtype: Dtype): number {
  return BITS[dtype];
}

/**
 * Bytes of a tensor.
 *
 * @returns `undefined` when the size is no exact number: it exceeds 2^53, or sub-byte elements do not fill whole bytes.
 */
export function byteLengthOf(dtype: Dtype, shape: readonly number[]): number | undefined {
  const bits = shape.reduce((product, size) => product * size, BITS[dtype]);
  return Number.isSafeInteger(bits) && bits % 8 === 0 ? bits / 8 : undefined;
}

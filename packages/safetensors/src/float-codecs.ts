// Conversions between float32 and the 16-bit formats, which JavaScript has no arrays for: their bits live in Uint16Array.
// Free of Node APIs. Narrowing rounds to nearest, ties to even (IEEE 754), as torch and numpy do; NaN stays NaN.

/** bfloat16 bits to float32. Exact. */
export function bfloat16ToFloat32(bits: Uint16Array): Float32Array<ArrayBuffer> {
  const out = new Float32Array(bits.length);
  bfloat16Into(bits, out, 0);
  return out;
}

/** {@link bfloat16ToFloat32} into `out` from `at` on. */
export function bfloat16Into(bits: Uint16Array, out: Float32Array, at: number): void {
  const words = new Uint32Array(out.buffer, out.byteOffset + 4 * at, bits.length);
  for (let i = 0; i < bits.length; i++) words[i] = bits[i]! << 16;
}

/** float32 to bfloat16 bits, rounded to nearest even; what exceeds the range becomes infinity. */
export function float32ToBfloat16(values: Float32Array): Uint16Array<ArrayBuffer> {
  const out = new Uint16Array(values.length);
  float32IntoBfloat16(values, out);
  return out;
}

/** {@link float32ToBfloat16} into `out`. */
export function float32IntoBfloat16(values: Float32Array, out: Uint16Array): void {
  const words = new Uint32Array(values.buffer, values.byteOffset, values.length);
  for (let i = 0; i < words.length; i++) {
    const word = words[i]!;
    const isNan = (word & 0x7fffffff) > 0x7f800000;
    out[i] = isNan ? (word >>> 16) | 0x40 : (word + 0x7fff + ((word >>> 16) & 1)) >>> 16;
  }
}

let float16Values: Float32Array<ArrayBuffer> | undefined;

/** The float32 value of each of the 65,536 float16 bit patterns. */
function float16Table(): Float32Array<ArrayBuffer> {
  if (float16Values) return float16Values;
  const table = new Float32Array(0x10000);
  for (let bits = 0; bits < 0x10000; bits++) {
    const exponent = (bits >> 10) & 0x1f;
    const fraction = bits & 0x3ff;
    const magnitude =
      exponent === 0
        ? fraction * 2 ** -24
        : exponent === 0x1f
          ? fraction === 0
            ? Infinity
            : NaN
          : (1 + fraction / 1024) * 2 ** (exponent - 15);
    table[bits] = bits & 0x8000 ? -magnitude : magnitude;
  }
  float16Values = table;
  return table;
}

/** IEEE 754 half-precision bits to float32. Exact. */
export function float16ToFloat32(bits: Uint16Array): Float32Array<ArrayBuffer> {
  const out = new Float32Array(bits.length);
  float16Into(bits, out, 0);
  return out;
}

/** {@link float16ToFloat32} into `out` from `at` on. */
export function float16Into(bits: Uint16Array, out: Float32Array, at: number): void {
  const table = float16Table();
  for (let i = 0; i < bits.length; i++) out[at + i] = table[bits[i]!]!;
}

/** float32 to IEEE 754 half-precision bits, rounded to nearest even; magnitudes from 65520 up become infinity. */
export function float32ToFloat16(values: Float32Array): Uint16Array<ArrayBuffer> {
  const words = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const out = new Uint16Array(values.length);
  for (let i = 0; i < words.length; i++) out[i] = float16Bits(words[i]!);
  return out;
}

function float16Bits(word: number): number {
  const sign = (word >>> 16) & 0x8000;
  const magnitude = word & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00 | ((magnitude >>> 13) & 0x3ff);
  if (magnitude >= 0x47800000) return sign | 0x7c00;
  const exponent = (magnitude >>> 23) - 112;
  if (exponent > 0) return sign | roundShift(magnitude - (112 << 23), 13);
  // Below 2^-14 float16 is subnormal: its unit is 2^-24, so the whole significand moves right.
  const shift = 14 - exponent;
  return shift > 25 ? sign : sign | roundShift((magnitude & 0x7fffff) | 0x800000, shift);
}

/** `value / 2^shift`, rounded to nearest even. A carry runs into the exponent, which is the right next value. */
function roundShift(value: number, shift: number): number {
  const half = 2 ** (shift - 1);
  const floor = Math.floor(value / 2 ** shift);
  const rest = value - floor * 2 ** shift;
  return rest > half || (rest === half && floor & 1) ? floor + 1 : floor;
}

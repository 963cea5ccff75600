// Block formats of GGML to float32. Layouts: ggml-common.h and ggml-quants.c of https://github.com/ggml-org/llama.cpp.
// Free of Node APIs. Products and sums are exact in float64 and rounded once on storing, which gives float32 arithmetic's
// results: every factor has few bits (scales are float16, quants at most 8 bits).
import { float16ToFloat32, widenToFloat32 } from '@anneal/safetensors/codecs';

/** Writes the values of the block at `offset` of `bytes` to `out`, from `at` on. */
type BlockDecoder = (bytes: Uint8Array, offset: number, out: Float32Array, at: number) => void;

interface BlockFormat {
  /** Values in a block. */
  readonly values: number;
  /** Bytes of a block. */
  readonly bytes: number;
  readonly decode: BlockDecoder;
}

const K = 256;

const BLOCK_FORMATS = {
  Q4_0: { values: 32, bytes: 18, decode: decodeQ4_0 },
  Q4_1: { values: 32, bytes: 20, decode: decodeQ4_1 },
  Q5_0: { values: 32, bytes: 22, decode: decodeQ5_0 },
  Q5_1: { values: 32, bytes: 24, decode: decodeQ5_1 },
  Q8_0: { values: 32, bytes: 34, decode: decodeQ8_0 },
  Q2_K: { values: K, bytes: 84, decode: decodeQ2K },
  Q3_K: { values: K, bytes: 110, decode: decodeQ3K },
  Q4_K: { values: K, bytes: 144, decode: decodeQ4K },
  Q5_K: { values: K, bytes: 176, decode: decodeQ5K },
  Q6_K: { values: K, bytes: 210, decode: decodeQ6K },
} as const satisfies Record<string, BlockFormat>;

const PLAIN_BYTES = { F64: 8, F32: 4, F16: 2, BF16: 2 } as const;

type BlockName = keyof typeof BLOCK_FORMATS;
type PlainName = keyof typeof PLAIN_BYTES;

/** Tensor encodings of GGUF files that can be read. */
export type GgufEncoding = BlockName | PlainName;

/** Names of all of them, for messages. */
export const GGUF_ENCODINGS: readonly string[] = [...Object.keys(PLAIN_BYTES), ...Object.keys(BLOCK_FORMATS)];

export function isGgufEncoding(name: string): name is GgufEncoding {
  return GGUF_ENCODINGS.includes(name);
}

/** Bytes that `count` values take, or undefined when they do not fill whole blocks. */
export function encodedByteLength(encoding: GgufEncoding, count: number): number | undefined {
  if (isPlain(encoding)) return count * PLAIN_BYTES[encoding];
  const { values, bytes } = BLOCK_FORMATS[encoding];
  return count % values === 0 ? (count / values) * bytes : undefined;
}

/** Values of a tensor's stored bytes, in storage order. */
export function dequantize(
  encoding: GgufEncoding,
  bytes: Uint8Array<ArrayBuffer>,
): Float32Array<ArrayBuffer> {
  if (isPlain(encoding)) return widenToFloat32(encoding, bytes);
  const format = BLOCK_FORMATS[encoding];
  const blocks = bytes.length / format.bytes;
  const out = new Float32Array(blocks * format.values);
  for (let block = 0; block < blocks; block++)
    format.decode(bytes, block * format.bytes, out, block * format.values);
  return out;
}

function isPlain(encoding: GgufEncoding): encoding is PlainName {
  return Object.hasOwn(PLAIN_BYTES, encoding);
}

/** All float16 values, so that a scale costs one lookup. */
const HALVES = float16ToFloat32(Uint16Array.from({ length: 0x10000 }, (_, bits) => bits));

function half(bytes: Uint8Array, offset: number): number {
  return HALVES[bytes[offset]! | (bytes[offset + 1]! << 8)]!;
}

function signed(byte: number): number {
  return (byte << 24) >> 24;
}

function decodeQ4_0(bytes: Uint8Array, offset: number, out: Float32Array, at: number): void {
  const scale = half(bytes, offset);
  for (let i = 0; i < 16; i++) {
    const pair = bytes[offset + 2 + i]!;
    out[at + i] = ((pair & 15) - 8) * scale;
    out[at + 16 + i] = ((pair >> 4) - 8) * scale;
  }
}

function decodeQ4_1(bytes: Uint8Array, offset: number, out: Float32Array, at: number): void {
  const scale = half(bytes, offset);
  const minimum = half(bytes, offset + 2);
  for (let i = 0; i < 16; i++) {
    const pair = bytes[offset + 4 + i]!;
    out[at + i] = (pair & 15) * scale + minimum;
    out[at + 16 + i] = (pair >> 4) * scale + minimum;
  }
}

function decodeQ5_0(bytes: Uint8Array, offset: number, out: Float32Array, at: number): void {
  const scale = half(bytes, offset);
  for (let i = 0; i < 32; i++) out[at + i] = (fiveBits(bytes, offset + 2, i) - 16) * scale;
}

function decodeQ5_1(bytes: Uint8Array, offset: number, out: Float32Array, at: number): void {
  const scale = half(bytes, offset);
  const minimum = half(bytes, offset + 2);
  for (let i = 0; i < 32; i++) out[at + i] = fiveBits(bytes, offset + 4, i) * scale + minimum;
}

/** Value `i` of 32: a nibble behind four bytes that hold the fifth bits. */
function fiveBits(bytes: Uint8Array, offset: number, i: number): number {
  const pair = bytes[offset + 4 + (i & 15)]!;
  const nibble = i < 16 ? pair & 15 : pair >> 4;
  return nibble | (((bytes[offset + (i >> 3)]! >> (i & 7)) & 1) << 4);
}

function decodeQ8_0(bytes: Uint8Array, offset: number, out: Float32Array, at: number): void {
  const scale = half(bytes, offset);
  for (let i = 0; i < 32; i++) out[at + i] = signed(bytes[offset + 2 + i]!) * scale;
}

// The K formats hold 256 values in sub-blocks of 16 or 32, each with its own small scale.

function decodeQ2K(bytes: Uint8Array, offset: number, out: Float32Array, at: number): void {
  const quants = offset + 16;
  const scale = half(bytes, offset + 80);
  const minimum = half(bytes, offset + 82);
  for (let i = 0; i < K; i++) {
    const packed = bytes[offset + (i >> 4)]!;
    const quant = (bytes[quants + (i >> 7) * 32 + (i & 31)]! >> (2 * ((i >> 5) & 3))) & 3;
    out[at + i] = scale * (packed & 15) * quant - minimum * (packed >> 4);
  }
}

function decodeQ3K(bytes: Uint8Array, offset: number, out: Float32Array, at: number): void {
  const quants = offset + 32;
  const scales = offset + 96;
  const scale = half(bytes, offset + 108);
  for (let i = 0; i < K; i++) {
    const low = (bytes[quants + (i >> 7) * 32 + (i & 31)]! >> (2 * ((i >> 5) & 3))) & 3;
    const high = (bytes[offset + (i & 31)]! >> (i >> 5)) & 1;
    out[at + i] = scale * sixBitScale(bytes, scales, i >> 4) * (low - (high ? 0 : 4));
  }
}

/** Scale `j` of 16 in Q3_K: low four bits in the first eight bytes, high two bits in the last four. */
function sixBitScale(bytes: Uint8Array, offset: number, j: number): number {
  const low = j < 8 ? bytes[offset + j]! & 15 : bytes[offset + j - 8]! >> 4;
  const high = (bytes[offset + 8 + (j & 3)]! >> (2 * (j >> 2))) & 3;
  return (low | (high << 4)) - 32;
}

function decodeQ4K(bytes: Uint8Array, offset: number, out: Float32Array, at: number): void {
  const quants = offset + 16;
  for (let j = 0; j < 8; j++) {
    const { scale, minimum } = scaleAndMinimum(bytes, offset, j);
    for (let i = 0; i < 32; i++) {
      const pair = bytes[quants + (j >> 1) * 32 + i]!;
      out[at + j * 32 + i] = scale * (j & 1 ? pair >> 4 : pair & 15) - minimum;
    }
  }
}

function decodeQ5K(bytes: Uint8Array, offset: number, out: Float32Array, at: number): void {
  const high = offset + 16;
  const quants = offset + 48;
  for (let j = 0; j < 8; j++) {
    const { scale, minimum } = scaleAndMinimum(bytes, offset, j);
    for (let i = 0; i < 32; i++) {
      const pair = bytes[quants + (j >> 1) * 32 + i]!;
      const fifth = (bytes[high + i]! >> j) & 1;
      out[at + j * 32 + i] = scale * ((j & 1 ? pair >> 4 : pair & 15) + 16 * fifth) - minimum;
    }
  }
}

/** Scale and minimum of sub-block `j` of 8 in Q4_K and Q5_K: six bits each, packed in twelve bytes after two float16. */
function scaleAndMinimum(bytes: Uint8Array, offset: number, j: number): { scale: number; minimum: number } {
  const packed = offset + 4;
  const upper = j < 4 ? undefined : bytes[packed + j + 4]!;
  const scale =
    upper === undefined ? bytes[packed + j]! & 63 : (upper & 15) | ((bytes[packed + j - 4]! >> 6) << 4);
  const minimum =
    upper === undefined ? bytes[packed + j + 4]! & 63 : (upper >> 4) | ((bytes[packed + j]! >> 6) << 4);
  return { scale: half(bytes, offset) * scale, minimum: half(bytes, offset + 2) * minimum };
}

function decodeQ6K(bytes: Uint8Array, offset: number, out: Float32Array, at: number): void {
  const high = offset + 128;
  const scales = offset + 192;
  const scale = half(bytes, offset + 208);
  for (let i = 0; i < K; i++) {
    const group = i >> 7;
    const part = (i >> 5) & 3;
    const pair = bytes[offset + group * 64 + (part & 1) * 32 + (i & 31)]!;
    const top = (bytes[high + group * 32 + (i & 31)]! >> (2 * part)) & 3;
    const quant = ((part < 2 ? pair & 15 : pair >> 4) | (top << 4)) - 32;
    out[at + i] = scale * signed(bytes[scales + (i >> 4)]!) * quant;
  }
}

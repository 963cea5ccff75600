/**
 * MXFP4 weights (OCP Microscaling formats 1.0): 4-bit floats in blocks of 32 along the input, each block with a power of
 * two as scale. gpt-oss stores its experts so.
 */
import type { SafetensorsReader } from '@anneal/safetensors';
import { expectStored, finite } from './weight-source.ts';

/** Values of a code: sign, two exponent bits, one of mantissa. */
const CODES = [0, 0.5, 1, 1.5, 2, 3, 4, 6, -0, -0.5, -1, -1.5, -2, -3, -4, -6];
const BLOCK = 32;

/**
 * Rows of one expert, `first`, `first + step`, … of its `rows`.
 * @param name The weight's name without `_blocks` and `_scales`
 * @param shape [experts, rows, columns] of the weight
 * @returns row-major float32 [picked rows, columns]
 */
export function readMxfp4Rows(
  reader: SafetensorsReader,
  name: string,
  [experts, rows, columns]: readonly [number, number, number],
  expert: number,
  { first, step }: { first: number; step: number },
): Float32Array<ArrayBuffer> {
  const perRow = columns / BLOCK;
  const [blocks, scales] = [`${name}_blocks`, `${name}_scales`];
  expectStored(reader, blocks, [experts, rows, perRow, BLOCK / 2]);
  expectStored(reader, scales, [experts, rows, perRow]);
  const part = (tensor: string, bytes: number) =>
    reader.readPartSync(tensor, expert * bytes, (expert + 1) * bytes);
  const codes = part(blocks, (rows * columns) / 2);
  const exponents = part(scales, rows * perRow);
  const picked = Math.ceil((rows - first) / step);
  const values = new Float32Array(picked * columns);
  let at = 0;
  for (let row = first; row < rows; row += step) {
    for (let block = row * perRow; block < (row + 1) * perRow; block++) {
      const scale = 2 ** (exponents[block]! - 127);
      // Two codes a byte, the low half first.
      for (let i = block * (BLOCK / 2); i < (block + 1) * (BLOCK / 2); i++) {
        values[at++] = CODES[codes[i]! & 15]! * scale;
        values[at++] = CODES[codes[i]! >> 4]! * scale;
      }
    }
  }
  return finite(values, blocks);
}

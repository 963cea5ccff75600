/**
 * Bicubic resizing of 8-bit images as transformers' processors do it, by torchvision with antialiasing: the cubic kernel of
 * Keys (a = −1/2), stretched where the image shrinks, columns first and then rows, each pass rounded to 8 bits, with weights
 * as 16-bit integers. Pillow does the same with weights of 22 bits, which moves a value by one here and there.
 */

export interface RgbImage {
  width: number;
  height: number;
  /** [height, width, 3] */
  pixels: Uint8Array;
}

/** For each new position along an axis: where the old ones that count begin, how many they are, and their weights. */
interface Taps {
  starts: Int32Array;
  counts: Int32Array;
  /** [new size, longest] */
  weights: Int32Array;
  longest: number;
  /** Binary digits of the weights behind the point. */
  bits: number;
}

const MAX_WEIGHT = 2 ** 15;

/** Resizes to `width` × `height`. */
export function resize(image: RgbImage, width: number, height: number): RgbImage {
  const wide = width === image.width ? image : resizeRows(image, width);
  return height === image.height ? wide : resizeColumns(wide, height);
}

function cubic(x: number): number {
  const a = -0.5;
  const d = Math.abs(x);
  if (d < 1) return ((a + 2) * d - (a + 3)) * d * d + 1;
  if (d < 2) return (((d - 5) * d + 8) * d - 4) * a;
  return 0;
}

function tapsOf(size: number, target: number): Taps {
  const scale = size / target;
  const stretch = Math.max(scale, 1);
  const support = 2 * stretch;
  const longest = Math.ceil(support) * 2 + 1;
  const starts = new Int32Array(target);
  const counts = new Int32Array(target);
  const exact = new Float64Array(target * longest);
  for (let i = 0; i < target; i++) {
    const center = scale * (i + 0.5);
    const start = Math.max(Math.trunc(center - support + 0.5), 0);
    const count = Math.min(Math.min(Math.trunc(center + support + 0.5), size) - start, longest);
    starts[i] = start;
    counts[i] = count;
    let total = 0;
    for (let j = 0; j < count; j++) {
      const weight = cubic((j + start - center + 0.5) / stretch);
      exact[i * longest + j] = weight;
      total += weight;
    }
    for (let j = 0; j < count; j++) exact[i * longest + j]! /= total;
  }
  const bits = bitsFor(exact.reduce((most, weight) => Math.max(most, weight), 0));
  const weights = Int32Array.from(exact, (weight) =>
    Math.trunc(weight * 2 ** bits + (weight < 0 ? -0.5 : 0.5)),
  );
  return { starts, counts, weights, longest, bits };
}

/** As many digits as let the largest weight fit 16 bits with its sign. */
function bitsFor(largest: number): number {
  let bits = 0;
  while (bits < 22 && Math.trunc(0.5 + largest * 2 ** (bits + 1)) < MAX_WEIGHT) bits++;
  return bits;
}

function resizeRows({ width, height, pixels }: RgbImage, target: number): RgbImage {
  const { starts, counts, weights, longest, bits } = tapsOf(width, target);
  const result = new Uint8ClampedArray(height * target * 3);
  const half = 1 << (bits - 1);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < target; x++) {
      let [r, g, b] = [half, half, half];
      let from = 3 * (y * width + starts[x]!);
      for (let j = 0; j < counts[x]!; j++, from += 3) {
        const weight = weights[x * longest + j]!;
        r += weight * pixels[from]!;
        g += weight * pixels[from + 1]!;
        b += weight * pixels[from + 2]!;
      }
      const at = 3 * (y * target + x);
      result[at] = r >> bits;
      result[at + 1] = g >> bits;
      result[at + 2] = b >> bits;
    }
  }
  return { width: target, height, pixels: new Uint8Array(result.buffer) };
}

function resizeColumns({ width, height, pixels }: RgbImage, target: number): RgbImage {
  const { starts, counts, weights, longest, bits } = tapsOf(height, target);
  const row = 3 * width;
  const result = new Uint8ClampedArray(target * row);
  const half = 1 << (bits - 1);
  const sums = new Int32Array(row);
  for (let y = 0; y < target; y++) {
    sums.fill(half);
    for (let j = 0; j < counts[y]!; j++) {
      const weight = weights[y * longest + j]!;
      const from = (starts[y]! + j) * row;
      for (let x = 0; x < row; x++) sums[x]! += weight * pixels[from + x]!;
    }
    for (let x = 0; x < row; x++) result[y * row + x] = sums[x]! >> bits;
  }
  return { width, height: target, pixels: new Uint8Array(result.buffer) };
}

/**
 * Matrices in 8 bits with a scale for each row (weight-only quantisation, as in Dettmers et al. 2022, arXiv:2208.07339): a value is
 * q · scale, q from −127 to 127. On the device a row's bytes are followed by the four of its scale, so that one tensor holds all.
 */

/** Bytes of a row's scale. */
export const SCALE_BYTES = 4;
const LARGEST = 127;

/**
 * Rounds rows to 8 bits. The error of a value is at most half of its row's scale, the largest magnitude of the row / 127.
 * @param values Row-major
 * @param width Values of a row
 * @returns Rows of `width + SCALE_BYTES` bytes.
 */
export function quantiseRows(values: Float32Array, width: number): Int8Array {
  const packed = new Int8Array((values.length / width) * (width + SCALE_BYTES));
  quantiseRowsInto(values, width, packed);
  return packed;
}

/** {@link quantiseRows} into `packed`. */
export function quantiseRowsInto(values: Float32Array, width: number, packed: Int8Array): void {
  const rows = values.length / width;
  const scale = new Float32Array(1);
  const scaleBytes = new Int8Array(scale.buffer);
  for (let row = 0; row < rows; row++) {
    const from = row * width;
    const to = row * (width + SCALE_BYTES);
    let largest = 0;
    for (let i = from; i < from + width; i++) largest = Math.max(largest, Math.abs(values[i]!));
    scale[0] = largest / LARGEST;
    const inverse = scale[0] > 0 ? 1 / scale[0] : 0;
    for (let i = 0; i < width; i++) packed[to + i] = Math.round(values[from + i]! * inverse);
    packed.set(scaleBytes, to + width);
  }
}

/** What depends on where a patch lies: learned positions and rotary angles, on the host; `width` counts padding too. */

/** Of a patch, in its image. */
interface Position {
  row: number;
  column: number;
}

/** For each patch, the four learned positions around its place in the square, and their shares; corners meet corners. */
export function interpolation(
  positions: Position[],
  { rows, columns, side, width }: { rows: number; columns: number; side: number; width: number },
): { taps: Int32Array; shares: Float32Array } {
  const taps = new Int32Array(4 * width);
  const shares = new Float32Array(4 * width);
  const along = (index: number, size: number) => {
    const at = (index * (side - 1)) / Math.max(size - 1, 1);
    const low = Math.floor(at);
    return { low, high: Math.min(low + 1, side - 1), part: at - low };
  };
  positions.forEach(({ row, column }, i) => {
    const y = along(row, rows);
    const x = along(column, columns);
    const corners = [
      [y.low, x.low, (1 - y.part) * (1 - x.part)],
      [y.low, x.high, (1 - y.part) * x.part],
      [y.high, x.low, y.part * (1 - x.part)],
      [y.high, x.high, y.part * x.part],
    ] as const;
    corners.forEach(([a, b, share], corner) => {
      taps[corner * width + i] = a * side + b;
      shares[corner * width + i] = share;
    });
  });
  return { taps, shares };
}

/** Half of the rotated pairs turn with the row, half with the column, [width, dim / 2] each. */
export function rotaryTable(
  positions: Position[],
  { dim, theta, width }: { dim: number; theta: number; width: number },
): { cos: Float32Array; sin: Float32Array } {
  const quarter = dim / 4;
  const cos = new Float32Array((width * dim) / 2);
  const sin = new Float32Array((width * dim) / 2);
  positions.forEach(({ row, column }, i) => {
    [row, column].forEach((position, axis) => {
      for (let j = 0; j < quarter; j++) {
        const angle = position * theta ** (-j / quarter);
        const at = (i * dim) / 2 + axis * quarter + j;
        cos[at] = Math.cos(angle);
        sin[at] = Math.sin(angle);
      }
    });
  });
  return { cos, sin };
}

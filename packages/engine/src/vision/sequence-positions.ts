/**
 * Positions of text and images in a sequence, along three axes (time, row, column), as Qwen3-VL counts them: text goes on
 * along all three at once; an image's tokens share one time and spread over rows and columns, and text after it goes on from
 * the largest of its positions. (transformers' get_rope_index)
 */

/** An image's place in a sequence, in tokens. */
export interface PlacedGrid {
  at: number;
  rows: number;
  columns: number;
}

export interface SequencePositions {
  /** [time, row, column], one number per token each */
  axes: [Int32Array, Int32Array, Int32Array];
  /** Position of the next token, less the tokens so far: zero or negative. */
  shift: number;
}

/** @param images In the order of their places. */
export function sequencePositions(length: number, images: readonly PlacedGrid[]): SequencePositions {
  const axes = [new Int32Array(length), new Int32Array(length), new Int32Array(length)] as const;
  const set = (at: number, ...positions: [number, number, number]) => {
    positions.forEach((position, axis) => {
      axes[axis]![at] = position;
    });
  };
  let token = 0;
  let next = 0;
  const text = (end: number) => {
    for (; token < end; token++, next++) set(token, next, next, next);
  };
  for (const { at, rows, columns } of images) {
    text(at);
    for (let i = 0; i < rows * columns; i++, token++)
      set(token, next, next + Math.floor(i / columns), next + (i % columns));
    next += Math.max(rows, columns);
  }
  text(length);
  return { axes: [...axes], shift: next - length };
}

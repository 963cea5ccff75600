/** Which datums run together, and how far they are padded: few shapes to compile, little padding, bounded memory. */

/** Datums of one pass: `rows` real ones, padded to `height` rows of `width` tokens. */
export interface MicroBatch {
  /** Indices into the request's datums. */
  datums: number[];
  height: number;
  width: number;
  /** Targets per position. */
  targetsPerPosition: number;
}

export interface PlanItem {
  length: number;
  targetsPerPosition: number;
}

/** Widths that sequences are padded to: finer where padding would cost more of the whole. */
export function bucketWidth(length: number): number {
  const step = length <= 64 ? 16 : length <= 256 ? 32 : length <= 1024 ? 64 : 256;
  return Math.ceil(length / step) * step;
}

const HEIGHTS = [1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64];

/** Row counts that batches are padded to. */
export function bucketHeight(rows: number): number {
  return HEIGHTS.find((height) => height >= rows) ?? Math.ceil(rows / 16) * 16;
}

/**
 * Cuts a request into passes of at most `maxTokens` padded tokens (a longer single group still goes alone).
 * Groups of `groupSize` datums that are adjacent in `order` stay together; within a pass, groups keep no particular order.
 */
export function planBatches(
  items: PlanItem[],
  maxTokens: number,
  groupSize = 1,
  order: number[] = [...items.keys()],
): MicroBatch[] {
  const groups = Array.from({ length: Math.ceil(items.length / groupSize) }, (_, g) => {
    const datums = order.slice(g * groupSize, (g + 1) * groupSize);
    return {
      datums,
      width: bucketWidth(Math.max(...datums.map((i) => items[i]!.length))),
      targetsPerPosition: items[datums[0]!]!.targetsPerPosition,
    };
  });
  groups.sort(
    (a, b) => a.targetsPerPosition - b.targetsPerPosition || b.width - a.width || a.datums[0]! - b.datums[0]!,
  );
  const batches: MicroBatch[] = [];
  for (const group of groups) {
    const last = batches.at(-1);
    const height = (last?.datums.length ?? 0) + group.datums.length;
    const fits =
      last !== undefined &&
      last.targetsPerPosition === group.targetsPerPosition &&
      bucketHeight(height) * last.width <= maxTokens &&
      wastes(last.width, group.width) < 0.25;
    if (fits) {
      last.datums.push(...group.datums);
      last.height = bucketHeight(height);
    } else {
      batches.push({ ...group, height: bucketHeight(group.datums.length) });
    }
  }
  return batches;
}

function wastes(width: number, narrower: number): number {
  return 1 - narrower / width;
}

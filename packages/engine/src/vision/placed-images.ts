/** What images put into a pass over sequences: features in place of embeddings, additions to the first layers, positions. */
import { type Tensor, tf } from '@anneal/tensorflow';
import type { EngineImage } from '../engine.ts';
import type { RopeTensors } from '../layers/rotary.ts';
import type { BaseModel } from '../models/base-model.ts';
import type { RopeTables } from '../models/rope-tables.ts';
import { type ImageProcessor, tokenGrid } from './image-processor.ts';
import type { ImageFeatures } from './qwen3-vl-tower.ts';
import { type PlacedGrid, type SequencePositions, sequencePositions } from './sequence-positions.ts';

/** A row of a pass: tokens of a sequence from `start` on. */
export interface RowOfSequence {
  images: readonly EngineImage[];
  start: number;
}

export interface PlacedImages {
  /** 0 where an image's feature takes the embedding's place, else 1, [rows, width, 1]; absent where no image is in sight. */
  keep: Tensor | undefined;
  /** Features at their places and zeros elsewhere, [rows, width, hidden]. */
  features: Tensor | undefined;
  /** What is added to the outputs of the first layers, [rows, width, hidden] each. */
  deepstack: Tensor[];
  /** Positions of each row, [rows, width, dim / 2]. */
  ropes: Map<RopeTables, RopeTensors>;
}

/** A stretch of an image's features, and where in [rows · width] it goes. */
interface Stretch {
  image: EngineImage;
  from: number;
  count: number;
  to: number;
}

/**
 * Lays images into a pass of `height` rows, of which the first are given; undefined if no row's sequence has an image.
 * The caller frees the result with {@link disposePlaced}.
 */
export function placeImages(
  base: BaseModel,
  rows: RowOfSequence[],
  { height, width }: { height: number; width: number },
): PlacedImages | undefined {
  const { vision, imageProcessor } = base;
  if (!vision || !imageProcessor || rows.every(({ images }) => images.length === 0)) return undefined;
  const grids = rows.map(({ images }) => gridsOf(images, imageProcessor));
  const stretches = rows.flatMap(({ images, start }, row) =>
    images.flatMap((image, i) => stretchOf(image, grids[row]![i]!, { start, width, row })),
  );
  const ropes = ropesOf(base, rows, grids, { height, width });
  if (stretches.length === 0) return { keep: undefined, features: undefined, deepstack: [], ropes };
  const encoded = stretches.map(({ image }) => vision.encode(image));
  const index = new Int32Array(height * width);
  let next = 1;
  for (const { to, count } of stretches) for (let i = 0; i < count; i++) index[to + i] = next++;
  const lay = (pick: (features: ImageFeatures) => Tensor) =>
    tf.tidy(() => {
      const parts = stretches.map(({ from, count }, i) =>
        tf.slice(pick(encoded[i]!), [from, 0], [count, -1]),
      );
      const hidden = parts[0]!.shape[1] as number;
      const table = tf.concat([tf.zeros([1, hidden]), ...parts], 0);
      return tf.reshape(tf.gather(table, tf.tensor1d(index, 'int32')), [height, width, hidden]) as Tensor;
    });
  const placed = {
    keep: tf.tensor3d(
      Float32Array.from(index, (at) => (at === 0 ? 1 : 0)),
      [height, width, 1],
    ) as Tensor,
    features: lay(({ features }) => features),
    deepstack: vision.config.deepstack.map((_, i) => lay(({ deepstack }) => deepstack[i]!)),
    ropes,
  };
  vision.trim();
  return placed;
}

/** Where a sequence with images goes on: see {@link SequencePositions.shift}. */
export function positionShift(
  { imageProcessor }: BaseModel,
  length: number,
  images: readonly EngineImage[],
): number {
  if (!imageProcessor || images.length === 0) return 0;
  return sequencePositions(length, gridsOf(images, imageProcessor)).shift;
}

/** Embeddings with features in their places; takes `x` over. */
export function withFeatures(x: Tensor, images: PlacedImages | undefined): Tensor {
  if (!images?.keep || !images.features) return x;
  const { keep, features } = images;
  const seen = tf.tidy(() => tf.add(tf.mul(x, keep), features) as Tensor);
  x.dispose();
  return seen;
}

/** A layer's output with what deepstack adds to it; takes `x` over. */
export function withDeepstack(x: Tensor, layer: number, images: PlacedImages | undefined): Tensor {
  const added = images?.deepstack[layer];
  if (!added) return x;
  const sum = tf.add(x, added) as Tensor;
  x.dispose();
  return sum;
}

export function disposePlaced(images: PlacedImages | undefined): void {
  if (!images) return;
  const { keep, features, deepstack, ropes } = images;
  const tensors = [...deepstack, ...[...ropes.values()].flatMap(({ cos, sin }) => [cos, sin])];
  tf.dispose([...tensors, ...(keep && features ? [keep, features] : [])]);
}

function gridsOf(images: readonly EngineImage[], processor: ImageProcessor): PlacedGrid[] {
  return images.map((image) => ({ at: image.at, ...tokenGrid(image, processor) }));
}

/** What of an image lies in a row's window. */
function stretchOf(
  image: EngineImage,
  { at, rows, columns }: PlacedGrid,
  { start, width, row }: { start: number; width: number; row: number },
): Stretch[] {
  const first = Math.max(at, start);
  const end = Math.min(at + rows * columns, start + width);
  if (first >= end) return [];
  return [{ image, from: first - at, count: end - first, to: row * width + first - start }];
}

/** Rotary tables of each distinct rope; rows beyond the given ones are padding and have any. */
function ropesOf(
  base: BaseModel,
  rows: RowOfSequence[],
  grids: PlacedGrid[][],
  { height, width }: { height: number; width: number },
): Map<RopeTables, RopeTensors> {
  const axes = [0, 1, 2].map(() => new Int32Array(height * width)) as SequencePositions['axes'];
  rows.forEach(({ start }, row) => {
    const end = Math.max(start + width, ...grids[row]!.map(({ at, rows, columns }) => at + rows * columns));
    const own = sequencePositions(end, grids[row]!);
    axes.forEach((axis, i) => {
      axis.set(own.axes[i]!.subarray(start, start + width), row * width);
    });
  });
  const distinct = new Set(base.attention.map(({ rope }) => rope));
  return new Map([...distinct].map((rope) => [rope, rope.along(axes, [height, width])]));
}

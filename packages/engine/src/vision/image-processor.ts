/**
 * What an image goes through before the vision tower: the steps of transformers' Qwen2VLImageProcessor, which Qwen3-VL and
 * Qwen3.5 use, by the model's preprocessor_config.json.
 */
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { z } from 'zod';
import { EngineError } from '../engine.ts';
import { type RgbImage, resize } from './resize.ts';
import type { VisionConfig } from './vision-config.ts';

/** How sizes of images become numbers of tokens. */
export interface ImageSizing {
  patchSize: number;
  /** So many patches to a side become one token. */
  mergeSize: number;
  /** Images of fewer or more pixels are enlarged or shrunk. */
  minPixels: number;
  maxPixels: number;
}

export interface ImageProcessor extends ImageSizing {
  temporalPatchSize: number;
  /** Of each channel, in 0 … 1. */
  mean: number[];
  std: number[];
}

export interface ImageSize {
  width: number;
  height: number;
}

/** An image as the tower reads it. */
export interface Patches {
  /** Patches to a side. */
  rows: number;
  columns: number;
  /** [rows · columns, channels · frames · patch · patch], block by block of those that become one token. */
  values: Float32Array;
}

const FILE = 'preprocessor_config.json';
/** What published models of these families set. */
const MAX_PIXELS = 2 ** 24;
/** Longer images are refused, as transformers does. */
const MAX_ASPECT = 200;

const positive = z.number().positive();
const channels = z.array(z.number()).length(3);

const ProcessorJson = z.looseObject({
  do_resize: z.literal(true).default(true),
  do_rescale: z.literal(true).default(true),
  do_normalize: z.literal(true).default(true),
  do_convert_rgb: z.literal(true).default(true),
  resample: z.literal(3, 'only 3, bicubic, is supported').default(3),
  rescale_factor: z.number().min(0.0039215686).max(0.0039215687).optional(),
  size: z.looseObject({ shortest_edge: positive.optional(), longest_edge: positive.optional() }).nullish(),
  min_pixels: positive.nullish(),
  max_pixels: positive.nullish(),
  image_mean: channels.default([0.5, 0.5, 0.5]),
  image_std: channels.default([0.5, 0.5, 0.5]),
  patch_size: positive.optional(),
  merge_size: positive.optional(),
  temporal_patch_size: positive.optional(),
});

/**
 * The processor of a checkpoint. One without preprocessor_config.json has that of its family's published models, but enlarges
 * no image beyond one token.
 * @throws EngineError (user) naming the field of preprocessor_config.json that is wrong, unsupported, or unlike config.json.
 */
export function readImageProcessor(folder: string, vision: VisionConfig): ImageProcessor {
  const json = ProcessorJson.safeParse(readProcessorJson(path.join(folder, FILE)));
  if (!json.success)
    throw new EngineError('user', `${FILE} of the model is not usable:\n${z.prettifyError(json.error)}`);
  const { size, min_pixels: min, max_pixels: max, image_mean: mean, image_std: std, ...rest } = json.data;
  const { patchSize, mergeSize, temporalPatchSize } = vision;
  const same = { patch_size: patchSize, merge_size: mergeSize, temporal_patch_size: temporalPatchSize };
  for (const [field, wanted] of Object.entries(same)) {
    const found = rest[field as keyof typeof same];
    if (found !== undefined && found !== wanted)
      throw new EngineError('user', `${FILE}: ${field} is ${found}, but vision_config says ${wanted}.`);
  }
  return {
    patchSize,
    mergeSize,
    temporalPatchSize,
    minPixels: min ?? size?.shortest_edge ?? (patchSize * mergeSize) ** 2,
    maxPixels: max ?? size?.longest_edge ?? MAX_PIXELS,
    mean,
    std,
  };
}

function readProcessorJson(file: string): unknown {
  if (!existsSync(file)) return {};
  try {
    return JSON.parse(readFileSync(file, 'utf8'));
  } catch (cause) {
    throw new EngineError('user', `${file} cannot be read as JSON: ${(cause as Error).message}`, { cause });
  }
}

/**
 * The size to which an image is brought: whole tokens to a side, pixels within the bounds, much the same aspect.
 * @throws EngineError (user) for an image that is more than 200 times as long as wide.
 */
export function resizedSize({ width, height }: ImageSize, sizing: ImageSizing): ImageSize {
  const aspect = Math.max(width, height) / Math.min(width, height);
  if (aspect > MAX_ASPECT)
    throw new EngineError(
      'user',
      `the image has ${width} × ${height} pixels: one side may be at most ${MAX_ASPECT} times the other.`,
    );
  const { minPixels, maxPixels } = sizing;
  const unit = sizing.patchSize * sizing.mergeSize;
  const sides = { width: roundHalfEven(width / unit) * unit, height: roundHalfEven(height / unit) * unit };
  const pixels = sides.width * sides.height;
  if (pixels > maxPixels) {
    const factor = Math.sqrt((width * height) / maxPixels);
    const side = (length: number) => Math.max(unit, Math.floor(length / factor / unit) * unit);
    return { width: side(width), height: side(height) };
  }
  if (pixels < minPixels) {
    const factor = Math.sqrt(minPixels / (width * height));
    const side = (length: number) => Math.ceil((length * factor) / unit) * unit;
    return { width: side(width), height: side(height) };
  }
  return sides;
}

/** As Python rounds. */
function roundHalfEven(x: number): number {
  const floor = Math.floor(x);
  if (x - floor !== 0.5) return Math.round(x);
  return floor % 2 === 0 ? floor : floor + 1;
}

/** Tokens to each side of an image. */
export function tokenGrid(size: ImageSize, sizing: ImageSizing): { rows: number; columns: number } {
  const { width, height } = resizedSize(size, sizing);
  const unit = sizing.patchSize * sizing.mergeSize;
  return { rows: height / unit, columns: width / unit };
}

/**
 * Tokens that an image takes.
 * @throws EngineError (user) for an image that is too long.
 */
export function imageTokens(size: ImageSize, sizing: ImageSizing): number {
  const { rows, columns } = tokenGrid(size, sizing);
  return rows * columns;
}

/** Resizes, normalises and cuts an image; its one frame is repeated for those that a patch has. */
export function toPatches(image: RgbImage, processor: ImageProcessor): Patches {
  const size = resizedSize(image, processor);
  const { pixels } = resize(image, size.width, size.height);
  const { patchSize: side, mergeSize: merge, temporalPatchSize: frames } = processor;
  const [rows, columns] = [size.height / side, size.width / side];
  const normalised = normalisation(processor);
  const values = new Float32Array(rows * columns * 3 * frames * side * side);
  let at = 0;
  for (const { row, column } of patchPositions(rows, columns, merge)) {
    for (let channel = 0; channel < 3; channel++) {
      for (let frame = 0; frame < frames; frame++) {
        for (let y = 0; y < side; y++) {
          let from = 3 * ((row * side + y) * size.width + column * side) + channel;
          for (let x = 0; x < side; x++, from += 3) values[at++] = normalised[channel]![pixels[from]!]!;
        }
      }
    }
  }
  return { rows, columns, values };
}

/** What each 8-bit value becomes, by channel; in float32 as torchvision computes it. */
function normalisation({ mean, std }: ImageProcessor): Float32Array[] {
  const { fround } = Math;
  return mean.map((center, channel) => {
    const [zero, unit] = [fround(fround(center) * 255), fround(fround(std[channel]!) * 255)];
    return Float32Array.from({ length: 256 }, (_, value) => fround(fround(value - zero) / unit));
  });
}

/** Rows and columns of patches in the order in which the tower has them: those of one token side by side. */
export function patchPositions(
  rows: number,
  columns: number,
  merge: number,
): { row: number; column: number }[] {
  const perToken = merge * merge;
  const perBand = merge * columns;
  return Array.from({ length: rows * columns }, (_, i) => {
    const inBand = i % perBand;
    const inToken = inBand % perToken;
    return {
      row: Math.floor(i / perBand) * merge + Math.floor(inToken / merge),
      column: Math.floor(inBand / perToken) * merge + (inToken % merge),
    };
  });
}

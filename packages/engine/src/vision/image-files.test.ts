/** Image files to patches, against Pillow and transformers with torchvision; see fixtures/make_image_fixtures.py. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { openSafetensors } from '@anneal/safetensors';
import { expect, test } from 'vitest';
import { fixturePath, maxDifference, readJson } from '../testing/fixtures.ts';
import { type ImageFormat, openImage } from './decode-image.ts';
import { imageTokens, readImageProcessor, resizedSize, toPatches } from './image-processor.ts';
import type { VisionConfig } from './vision-config.ts';

interface Files {
  processor: Record<string, unknown>;
  files: Record<string, { format: ImageFormat; grid: [number, number, number] }>;
  bounds: { factor: number; min_pixels: number; max_pixels: number };
  sizes: [number, number, number, number][];
}

const { processor: settings, files, bounds, sizes } = readJson<Files>(fixturePath('images', 'files.json'));
const tensors = openSafetensors(fixturePath('images', 'files.safetensors'));
const vision = { patchSize: 8, mergeSize: 2, temporalPatchSize: 2 } as VisionConfig;

/** The processor of a folder with this preprocessor_config.json. */
function processorOf(json: unknown) {
  const dir = mkdtempSync(path.join(tmpdir(), 'anneal-processor-'));
  try {
    writeFileSync(path.join(dir, 'preprocessor_config.json'), JSON.stringify(json));
    return readImageProcessor(dir, vision);
  } finally {
    rmSync(dir, { recursive: true });
  }
}

const processor = processorOf(settings);
const open = (name: string, format: ImageFormat) =>
  openImage(readFileSync(fixturePath('images', name)), format);

test.each(Object.entries(files))('%s', async (name, { format, grid: [, rows, columns] }) => {
  const opened = await open(name, format);
  const image = await opened.decode();
  expect([image.height, image.width, 3]).toEqual(tensors.info(`${name}.rgb`).shape);
  expect([opened.width, opened.height]).toEqual([image.width, image.height]);
  expect(Buffer.compare(image.pixels, tensors.readSync(`${name}.rgb`))).toBe(0);
  expect(imageTokens(opened, processor)).toBe((rows * columns) / 4);
  const patches = toPatches(image, processor);
  expect([patches.rows, patches.columns]).toEqual([rows, columns]);
  const levels = patches.values.map((value) => Math.round((value + 1) * 127.5));
  const perFrame = 64;
  const oneFrame = levels.filter((_, i) => Math.floor(i / perFrame) % 2 === 0);
  expect(maxDifference(oneFrame, tensors.readSync(`${name}.levels`))).toBe(0);
});

test('normalised values, to the bit', async () => {
  const image = await (await open('photo.jpg', 'jpeg')).decode();
  expect(maxDifference(toPatches(image, processor).values, tensors.readFloat32Sync('photo.values'))).toBe(0);
});

test.each(sizes)('%i × %i pixels become %i × %i', (height, width, wantHeight, wantWidth) => {
  const sizing = {
    patchSize: bounds.factor / 2,
    mergeSize: 2,
    minPixels: bounds.min_pixels,
    maxPixels: bounds.max_pixels,
  };
  expect(resizedSize({ width, height }, sizing)).toEqual({ width: wantWidth, height: wantHeight });
});

test.each([
  ['photo.jpg', 'png', 'says format "png", but is a jpeg file'],
  ['files.json', 'png', 'is no readable png file'],
] as const)('%s as %s is refused', async (name, format, message) => {
  await expect(open(name, format)).rejects.toThrow(message);
});

test('a file that ends early is refused', async () => {
  const data = readFileSync(fixturePath('images', 'photo.jpg'));
  const opened = await openImage(data.subarray(0, data.length / 2), 'jpeg');
  await expect(opened.decode()).rejects.toThrow('is no readable jpeg file');
});

test('an image that is too long is refused', () => {
  expect(() => imageTokens({ width: 201, height: 1 }, processor)).toThrow('at most 200 times');
});

test.each([
  [{ do_resize: false }, 'do_resize'],
  [{ resample: 2 }, 'resample'],
  [{ patch_size: 14 }, 'patch_size is 14, but vision_config says 8'],
])('a preprocessor_config.json with %j is refused', (change, message) => {
  expect(() => processorOf({ ...settings, ...change })).toThrow(message);
});

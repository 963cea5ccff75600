/** The tower and what it puts into a pass, against the image prompts of the families' fixtures. */
import { openSafetensors } from '@anneal/safetensors';
import { compile, type Tensor, tf } from '@anneal/tensorflow';
import { afterAll, describe, expect, test } from 'vitest';
import { BaseModel } from '../models/base-model.ts';
import { archFixture, imagePrompt, maxDifference } from '../testing/fixtures.ts';
import '../testing/tensorflow.ts';
import { logitsOf } from '../training/head.ts';
import { LayerStack } from '../training/layer-stack.ts';
import { toPatches } from './image-processor.ts';
import { disposePlaced, placeImages } from './placed-images.ts';
import { VisionTower } from './qwen3-vl-tower.ts';
import { sequencePositions } from './sequence-positions.ts';

const headLogits = compile('test_image_logits', ({ h, head }: { h: Tensor; head: Tensor }) => ({
  logits: logitsOf(h, head, undefined),
}));

describe.each([
  { family: 'qwen3_vl', tolerance: 2e-4 },
  { family: 'qwen3_5', tolerance: 2e-3 },
  { family: 'qwen3_5_moe', tolerance: 2e-3 },
])('$family', ({ family, tolerance }) => {
  const fixture = archFixture(family);
  const base = BaseModel.load(fixture.modelDir, 'auto');
  const { prompt, images, positions, shift } = imagePrompt(fixture, base.config.vision!.imageTokenId);

  afterAll(() => base.dispose());

  test('patches and features', () => {
    const patches = images.map((image) => toPatches(image, base.imageProcessor!));
    const values = Float32Array.from(patches.flatMap((own) => [...own.values]));
    expect(maxDifference(values, fixture.tensors.readFloat32Sync('image.patches'))).toBeLessThan(1e-6);
    const features = images.flatMap((image) => [...base.vision!.encode(image).features.dataSync()]);
    const want = fixture.tensors.readFloat32Sync('image.features');
    expect(maxDifference(features, want)).toBeLessThan(2e-4);
  });

  test('an image that is attended to in slices has the same features', () => {
    const reader = openSafetensors(fixture.modelDir);
    const options = { precision: 'auto', matmulPrecision: 'fp32', scoresBytes: 1 } as const;
    const tower = new VisionTower(reader, base.config.vision!, options);
    reader.close();
    const features = images.flatMap((image) => {
      const made = tower.run(toPatches(image, base.imageProcessor!));
      return [...made.features.dataSync()];
    });
    const want = fixture.tensors.readFloat32Sync('image.features');
    expect(maxDifference(features, want)).toBeLessThan(2e-4);
    tower.dispose();
  });

  test('positions', () => {
    const grids = images.map(({ at, width, height }) => ({ at, rows: height / 16, columns: width / 16 }));
    const found = sequencePositions(prompt.length, grids);
    expect(found.axes.map((axis) => [...axis])).toEqual(positions);
    expect(found.shift).toBe(shift);
  });

  test('logits of a prompt with images, in a row beside others and padded', () => {
    const stack = new LayerStack(base);
    const width = 32;
    const ids = new Int32Array(3 * width);
    ids.set(prompt, width);
    const rows = [
      { images: [], start: 0 },
      { images, start: 0 },
    ];
    const placed = placeImages(base, rows, { height: 3, width });
    const x = stack.forward(tf.tensor2d(ids, [3, width], 'int32'), undefined, placed);
    disposePlaced(placed);
    const own = tf.squeeze(tf.slice(x, [1, 0, 0], [1, prompt.length, -1]), [0]);
    const h = base.architecture.finalNorm(base.config, own, base.finalNorm);
    const logits = headLogits({ h, head: base.head }).logits.dataSync();
    const want = fixture.tensors.readFloat32Sync('image.logits');
    expect(maxDifference(logits, want)).toBeLessThan(tolerance);
    stack.dispose();
  });
});

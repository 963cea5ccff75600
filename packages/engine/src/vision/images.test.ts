/** Images through preprocessing, tower, training and sampling, against transformers; see fixtures/make_image_fixtures.py. */
import path from 'node:path';
import { openSafetensors } from '@anneal/safetensors';
import { compile, type Tensor, tf } from '@anneal/tensorflow';
import { afterAll, describe, expect, test } from 'vitest';
import type { EngineDatum, EngineImage, SampleResult } from '../engine.ts';
import { LoraAdapter } from '../lora/adapter.ts';
import { BaseModel } from '../models/base-model.ts';
import { Sampler } from '../sampling/sampler.ts';
import {
  archFixture,
  crossEntropyDatum,
  fixturePath,
  loraSpec,
  maxAbs,
  maxDifference,
  readJson,
} from '../testing/fixtures.ts';
import '../testing/tensorflow.ts';
import { logitsOf } from '../training/head.ts';
import { HeadPass } from '../training/head-pass.ts';
import { Trainer } from '../training/trainer.ts';
import { toPatches } from './image-processor.ts';
import { disposePlaced, placeImages } from './placed-images.ts';
import { sequencePositions } from './sequence-positions.ts';

interface ImageReference {
  image: { tokens: number[]; grid_thw: number[][]; position_ids: number[][]; rope_delta: number };
}

interface Made {
  targets: number[];
  weights: number[];
  loss: number;
  greedy: number[];
}

/** What the fixtures grant an fp32 engine. */
const USUAL = { logits: 2e-4, logprobs: 1e-4, loss: 1e-6, gradient: 1e-4 };
const WITH_DELTA_RULE = { logits: 2e-3, logprobs: 1e-3, loss: 5e-6, gradient: 1e-3 };

const headLogits = compile('test_image_logits', ({ h, head }: { h: Tensor; head: Tensor }) => ({
  logits: logitsOf(h, head, undefined),
}));

function finish<T>(steps: Generator<void, T>): T {
  for (;;) {
    const { done, value } = steps.next();
    if (done) return value;
  }
}

describe.each([
  { family: 'qwen3_vl', tolerance: USUAL },
  { family: 'qwen3_5', tolerance: WITH_DELTA_RULE },
])('$family', ({ family, tolerance }) => {
  const fixture = archFixture(family);
  const made = readJson<Made>(fixturePath('images', `${family}.json`));
  const madeTensors = openSafetensors(fixturePath('images', `${family}.safetensors`));
  const reference = readJson<ImageReference>(path.join(fixture.modelDir, '..', 'reference.json')).image;
  const base = BaseModel.load(fixture.modelDir, 'auto');
  const trainer = new Trainer(base, { activationBudgetBytes: 1e9 });
  const prompt = Int32Array.from(reference.tokens);
  const images = imagesOf(reference.grid_thw, prompt);

  afterAll(() => {
    trainer.dispose();
    base.dispose();
  });

  /** The fixture's pixels, at the places where its tokens begin. */
  function imagesOf(grids: number[][], tokens: Int32Array): EngineImage[] {
    let from = 0;
    return grids.map(([, rows, columns], i) => {
      const at = tokens.indexOf(base.config.vision!.imageTokenId, from);
      from = at + (rows! * columns!) / 4;
      const pixels = Uint8Array.from(fixture.tensors.readFloat32Sync(`image.${i}.pixels`));
      return { at, width: 8 * columns!, height: 8 * rows!, pixels };
    });
  }

  test('patches and features', () => {
    const patches = images.map((image) => toPatches(image, base.imageProcessor!));
    const want = fixture.tensors.readFloat32Sync('image.patches');
    const values = Float32Array.from(patches.flatMap((own) => [...own.values]));
    expect(maxDifference(values, want)).toBeLessThan(1e-6);
    const features = images.flatMap((image) => [...base.vision!.encode(image).features.dataSync()]);
    const wantFeatures = fixture.tensors.readFloat32Sync('image.features');
    expect(maxDifference(features, wantFeatures)).toBeLessThan(USUAL.logits);
  });

  test('positions', () => {
    const grids = images.map(({ at, width, height }) => ({ at, rows: height / 16, columns: width / 16 }));
    const { axes, shift } = sequencePositions(prompt.length, grids);
    expect(axes.map((axis) => [...axis])).toEqual(reference.position_ids);
    expect(shift).toBe(reference.rope_delta);
  });

  test('logits of a prompt with images, in a row beside others and padded', () => {
    const width = 32;
    const ids = new Int32Array(3 * width);
    ids.set(prompt, width);
    const rows = [
      { images: [], start: 0 },
      { images, start: 0 },
    ];
    const placed = placeImages(base, rows, { height: 3, width });
    const x = trainer.stack.forward(tf.tensor2d(ids, [3, width], 'int32'), undefined, placed);
    disposePlaced(placed);
    const own = tf.squeeze(tf.slice(x, [1, 0, 0], [1, prompt.length, -1]), [0]);
    const h = base.architecture.finalNorm(base.config, own, base.finalNorm);
    const logits = headLogits({ h, head: base.head }).logits.dataSync();
    const want = fixture.tensors.readFloat32Sync('image.logits');
    expect(maxDifference(logits, want)).toBeLessThan(tolerance.logits);
  });

  test.each([
    { activations: 'kept', budget: 1e9 },
    { activations: 'computed again', budget: 1 },
  ])('logprobs, loss and LoRA gradients beside a text, activations $activations', ({ budget }) => {
    const { rank, alpha } = fixture.reference.lora.r4!;
    const initial = fixture.lora('r4');
    const adapter = LoraAdapter.from(base, loraSpec({ rank, alpha }), (module) => ({
      a: initial.readFloat32Sync(`init.${module.path}.lora_A.weight`),
      b: initial.readFloat32Sync(`init.${module.path}.lora_B.weight`),
    }));
    const { targets, weights } = made;
    const seen = { ...crossEntropyDatum({ tokens: [...prompt], targets, weights }), images };
    const data: EngineDatum[] = [seen, fixture.data[0]!];
    const request = { modelId: 'm', data, lossFn: 'cross_entropy', lossFnConfig: {}, forwardOnly: false };
    const passes = new Trainer(base, { activationBudgetBytes: budget });
    const { outputs, metrics, grads } = finish(passes.steps(adapter, request));
    outputs.forEach(({ logprobs }, i) => {
      const want = madeTensors.readFloat32Sync(`logprobs.${i}`);
      expect(maxDifference(logprobs!.data as Float32Array, want)).toBeLessThan(tolerance.logprobs);
    });
    expect(Math.abs(metrics['loss:sum']! - made.loss) / made.loss).toBeLessThan(tolerance.loss);
    adapter.modules().forEach(({ module }, i) => {
      (['A', 'B'] as const).forEach((side, j) => {
        const want = madeTensors.readFloat32Sync(`grad.${module.path}.lora_${side}.weight`);
        const difference = maxDifference(grads![2 * i + j]!.dataSync(), want);
        expect(difference, module.path).toBeLessThan(tolerance.gradient * maxAbs(want));
      });
    });
    tf.dispose(grads!);
    passes.dispose();
  });

  const newSampler = (pieceTokens = 512) =>
    new Sampler(base, new HeadPass(base), {
      maxSlots: 4,
      pieceTokens,
      kvBudgetBytes: 1e9,
      prefillTokens: 256,
      xla: false,
      tokenizer: () => {
        throw new Error('no stop strings here');
      },
    });

  function sample(sampler: Sampler, tokens: Int32Array, seen: EngineImage[], promptLogprobs = false) {
    return sampler.submit(
      {
        samplerId: 's',
        prompt: tokens,
        images: seen,
        numSamples: 1,
        params: {
          maxTokens: made.greedy.length,
          temperature: 0,
          topK: -1,
          topP: 1,
          stop: { tokenIds: [], strings: [] },
        },
        promptLogprobs,
        topkPromptLogprobs: 0,
        topkSampleLogprobs: 0,
        promptAltTokensK: 0,
      },
      undefined,
    );
  }

  async function all(sampler: Sampler, results: Promise<SampleResult>[]): Promise<SampleResult[]> {
    while (sampler.hasWork) sampler.work();
    return await Promise.all(results);
  }

  test.each([512, 3])('greedy decoding beside a text, the prompt in pieces of %i', async (pieceTokens) => {
    const sampler = newSampler(pieceTokens);
    const { prompt: text, tokens: wanted } = fixture.reference.greedy;
    const [seen, read] = await all(sampler, [
      sample(sampler, prompt, images),
      sample(sampler, Int32Array.from(text), []),
    ]);
    expect([...seen!.sequences[0]!.tokens]).toEqual(made.greedy);
    expect([...read!.sequences[0]!.tokens]).toEqual(wanted.slice(0, made.greedy.length));
    sampler.dispose();
  });

  test('logprobs of a prompt are those of training; an image has none', async () => {
    const sampler = newSampler(7);
    const [{ promptLogprobs }] = (await all(sampler, [sample(sampler, prompt, images, true)])) as [
      SampleResult,
    ];
    const { targets, weights } = made;
    const seen = { ...crossEntropyDatum({ tokens: [...prompt], targets, weights }), images };
    const [trained] = finish(trainer.logprobs(undefined, [seen])) as [Float32Array];
    const { imageTokenId } = base.config.vision!;
    prompt.forEach((id, i) => {
      if (i === 0 || id === imageTokenId) expect(promptLogprobs![i]).toBeNaN();
      else expect(Math.abs(promptLogprobs![i]! - trained[i - 1]!)).toBeLessThan(tolerance.logprobs);
    });
    sampler.dispose();
  });

  test('a kept prompt serves one that begins alike, images included, and no other image', async () => {
    const before = Int32Array.from({ length: 40 }, (_, i) => 3 + i);
    const joined = Int32Array.from([...before, ...prompt]);
    const moved = images.map((image) => ({ ...image, at: image.at + before.length }));
    const other = moved.map((image) => ({ ...image, pixels: image.pixels.map((value) => 255 - value) }));
    const fresh = newSampler();
    const [expected] = await all(fresh, [sample(fresh, joined, other)]);
    fresh.dispose();
    const sampler = newSampler();
    const [first] = await all(sampler, [sample(sampler, joined, moved)]);
    const [again] = await all(sampler, [sample(sampler, joined, moved)]);
    const [unlike] = await all(sampler, [sample(sampler, joined, other)]);
    expect(again!.sequences[0]!.tokens).toEqual(first!.sequences[0]!.tokens);
    expect(unlike!.sequences[0]!.tokens).toEqual(expected!.sequences[0]!.tokens);
    expect(maxDifference(unlike!.sequences[0]!.logprobs, expected!.sequences[0]!.logprobs)).toBeLessThan(
      1e-4,
    );
    // Up to the first image; a state cannot be taken back, so with states nothing was of use.
    const hasState = base.cacheShapes().some((shape) => 'state' in shape);
    expect(unlike!.promptCacheHitTokens).toBe(hasState ? 0 : before.length + images[0]!.at);
    if (!hasState) expect(again!.promptCacheHitTokens).toBe(joined.length - 1);
    sampler.dispose();
  });

  test('what does not fit is refused with the count', async () => {
    const sampler = newSampler();
    const narrower = [{ ...images[0]!, width: 16, pixels: images[0]!.pixels.subarray(0, 3 * 16 * 32) }];
    const moved = [{ ...images[0]!, at: images[0]!.at + 1 }];
    await expect(sample(sampler, prompt, moved)).rejects.toThrow('take 6 tokens of id 361');
    await expect(sample(sampler, Int32Array.of(1, 361), narrower)).rejects.toThrow('take 2 tokens');
    await expect(sample(sampler, prompt, [{ ...images[0]!, width: 5 }])).rejects.toThrow('of RGB take');
    sampler.dispose();
  });
});

test('a model without a tower refuses images', () => {
  const base = BaseModel.load(archFixture('llama3').modelDir, 'auto');
  const trainer = new Trainer(base, { activationBudgetBytes: 1e9 });
  const adapter = LoraAdapter.create(base, loraSpec());
  const datum = crossEntropyDatum({ tokens: [1, 2], targets: [2, 3], weights: [1, 1] });
  const data = [{ ...datum, images: [{ at: 0, width: 1, height: 1, pixels: new Uint8Array(3) }] }];
  const request = { modelId: 'm', data, lossFn: 'cross_entropy', lossFnConfig: {}, forwardOnly: false };
  expect(() => finish(trainer.steps(adapter, request))).toThrow(
    'data[0].model_input has an image, but this model',
  );
  trainer.dispose();
  base.dispose();
});

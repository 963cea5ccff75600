/** Images in training and sampling, against transformers; see fixtures/make_image_fixtures.py. */
import { openSafetensors } from '@anneal/safetensors';
import { tf } from '@anneal/tensorflow';
import { afterAll, describe, expect, test } from 'vitest';
import type { EngineDatum, EngineImage, SampleResult } from '../engine.ts';
import { LoraAdapter } from '../lora/adapter.ts';
import { BaseModel } from '../models/base-model.ts';
import { Sampler } from '../sampling/sampler.ts';
import {
  archFixture,
  crossEntropyDatum,
  fixturePath,
  imagePrompt,
  loraSpec,
  maxAbs,
  maxDifference,
  readJson,
} from '../testing/fixtures.ts';
import '../testing/tensorflow.ts';
import { HeadPass } from '../training/head-pass.ts';
import { Trainer } from '../training/trainer.ts';

interface Made {
  targets: number[];
  weights: number[];
  loss: number;
  greedy: number[];
}

/** What the fixtures grant an fp32 engine; and how far logprobs of sampling are from its where products are in bfloat16. */
const USUAL = { logprobs: 1e-4, loss: 1e-6, gradient: 1e-4, rounded: 0.05 };
const WITH_DELTA_RULE = { logprobs: 1e-3, loss: 5e-6, gradient: 1e-3, rounded: 0.2 };

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
  const base = BaseModel.load(fixture.modelDir, 'auto');
  const trainer = new Trainer(base, { activationBudgetBytes: 1e9 });
  const { prompt, images } = imagePrompt(fixture, base.config.vision!.imageTokenId);

  afterAll(() => {
    trainer.dispose();
    base.dispose();
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

  const newSampler = (pieceTokens = 512, of = base) =>
    new Sampler(of, new HeadPass(of), {
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

  test('products in bfloat16: the prompt in pieces, of which some have images and some have not', async () => {
    const narrow = BaseModel.load(fixture.modelDir, 'auto', 'bf16');
    const sampler = newSampler(3, narrow);
    const { tokens, logprobs } = (await all(sampler, [sample(sampler, prompt, images)]))[0]!.sequences[0]!;
    const exact = newSampler();
    const wanted = (await all(exact, [sample(exact, prompt, images)]))[0]!.sequences[0]!;
    // From the first other token on they are other texts.
    const other = tokens.findIndex((token, i) => token !== wanted.tokens[i]);
    const compared = other < 0 ? tokens.length : other + 1;
    const farthest = maxDifference(logprobs.subarray(0, compared), wanted.logprobs.subarray(0, compared));
    expect(farthest).toBeGreaterThan(1e-6);
    expect(farthest).toBeLessThan(tolerance.rounded);
    sampler.dispose();
    exact.dispose();
    narrow.dispose();
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

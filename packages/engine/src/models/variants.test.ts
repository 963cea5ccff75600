/** Settings of config.json that the families' own fixtures do not have, against transformers: see make_variants.py. */
import { readdirSync } from 'node:fs';
import path from 'node:path';
import { openSafetensors } from '@anneal/safetensors';
import { tf } from '@anneal/tensorflow';
import { afterAll, describe, expect, test } from 'vitest';
import { LoraAdapter } from '../lora/adapter.ts';
import { loraShapes, sizeOf } from '../lora/shapes.ts';
import { Sampler } from '../sampling/sampler.ts';
import { fixturePath, loraSpec, maxDifference } from '../testing/fixtures.ts';
import '../testing/tensorflow.ts';
import { logitsOf } from '../training/head.ts';
import { HeadPass } from '../training/head-pass.ts';
import { LayerStack } from '../training/layer-stack.ts';
import { Trainer } from '../training/trainer.ts';
import { BaseModel } from './base-model.ts';

/** As the fixtures of whole families have it. */
const TOLERANCE = { logits: 2e-4, logprobs: 1e-4 };

describe.each(readdirSync(fixturePath('variants')))('%s', (name) => {
  const folder = fixturePath('variants', name);
  const base = BaseModel.load(folder, 'fp32');
  const reference = openSafetensors(path.join(folder, 'reference.safetensors'));
  const ids = new Int32Array(reference.readSync('ids').buffer);
  const trainer = new Trainer(base, { activationBudgetBytes: 1e9 });

  afterAll(() => {
    trainer.dispose();
    base.dispose();
  });

  /** An adapter that changes everything, so that each module must be in its place. */
  function adapter(rank: number, shareExperts: boolean): LoraAdapter {
    const spec = loraSpec({ rank, shareExperts });
    return LoraAdapter.from(base, spec, (module) => {
      const { a, b } = loraShapes(module, spec);
      const width = Math.sqrt(module.inFeatures);
      return {
        a: Float32Array.from({ length: sizeOf(a) }, (_, i) => Math.sin(i * 1.7 + rank) / width),
        b: Float32Array.from({ length: sizeOf(b) }, (_, i) => Math.cos(i * 2.3) / 40),
      };
    });
  }

  test('logits', () => {
    const x = new LayerStack(base).forward(tf.tensor2d(ids, [1, ids.length], 'int32'), undefined);
    const h = base.architecture.finalNorm(base.config, tf.squeeze(x, [0]), base.finalNorm);
    const want = reference.readFloat32Sync('logits');
    const difference = maxDifference(logitsOf(h, base.head, undefined).dataSync(), want);
    expect(difference).toBeLessThan(TOLERANCE.logits);
  });

  test('decoding with adapters side by side equals a forward pass', async () => {
    const sampler = new Sampler(base, new HeadPass(base), {
      maxSlots: 4,
      kvBudgetBytes: 1e9,
      prefillTokens: 256,
      xla: true,
      tokenizer: () => {
        throw new Error('no stop strings here');
      },
    });
    const prompt = ids.subarray(0, 7);
    const params = { maxTokens: 20, temperature: 0, topK: -1, topP: 1, stop: { tokenIds: [], strings: [] } };
    const adapters = [undefined, adapter(2, false), adapter(3, true)];
    const sampled = adapters.map((each) =>
      sampler.submit(
        {
          samplerId: 's',
          prompt,
          numSamples: 1,
          params,
          promptLogprobs: false,
          topkPromptLogprobs: 0,
          topkSampleLogprobs: 0,
          promptAltTokensK: 0,
        },
        each,
      ),
    );
    while (sampler.hasWork) sampler.work();
    const results = await Promise.all(sampled);
    results.forEach(({ sequences: [sequence] }, i) => {
      const all = Int32Array.from([...prompt, ...sequence!.tokens]);
      const target_tokens = { dtype: 'int32' as const, shape: [all.length - 1], data: all.subarray(1) };
      const steps = trainer.logprobs(adapters[i], [
        { tokens: all.subarray(0, -1), inputs: { target_tokens } },
      ]);
      let step = steps.next();
      while (!step.done) step = steps.next();
      const scored = step.value[0]!.subarray(prompt.length - 1);
      expect(maxDifference(sequence!.logprobs, scored)).toBeLessThan(TOLERANCE.logprobs);
    });
  });
});

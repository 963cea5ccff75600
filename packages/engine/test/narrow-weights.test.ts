/** Weights in 8 bits, and products in bfloat16: close to the float32 reference, and the same on every path. */
import { afterAll, describe, expect, test } from 'vitest';
import { LoraAdapter } from '../src/lora/adapter.ts';
import { BaseModel } from '../src/models/base-model.ts';
import { Sampler } from '../src/sampling/sampler.ts';
import { archFixture, loraSpec, maxAbs, maxDifference } from '../src/testing/fixtures.ts';
import '../src/testing/tensorflow.ts';
import { Trainer } from '../src/training/trainer.ts';

describe.each([
  ['llama3', 'bf16', 'bf16', 0.1, 0.1],
  ['llama3', 'int8', 'fp32', 0.2, 1e-4],
  ['qwen3_moe', 'int8', 'fp32', 0.2, 1e-4],
] as const)('%s in %s', (family, precision, products, gradTolerance, pathTolerance) => {
  const fixture = archFixture(family);
  const base = BaseModel.load(fixture.modelDir, precision, products);
  const trainer = new Trainer(base, { activationBudgetBytes: 1e9 });
  const spec = loraSpec({ rank: 8, trainUnembed: true });
  const file = fixture.lora('r8_unembed');
  const adapter = LoraAdapter.from(base, spec, ({ path }) => ({
    a: file.readFloat32Sync(`init.${path}.lora_A.weight`),
    b: file.readFloat32Sync(`init.${path}.lora_B.weight`),
  }));
  afterAll(() => {
    trainer.dispose();
    base.dispose();
  });

  test('loss and gradients stay near those of float32', () => {
    const steps = trainer.steps(adapter, {
      modelId: 'm',
      data: fixture.data,
      lossFn: 'cross_entropy',
      lossFnConfig: {},
      forwardOnly: false,
    });
    let step = steps.next();
    while (!step.done) step = steps.next();
    const { metrics, grads } = step.value;
    const want = fixture.reference.lora.r8_unembed!.loss[0]!;
    expect(Math.abs(metrics['loss:sum']! - want) / want).toBeLessThan(0.01);
    adapter.modules().forEach(({ module }, i) => {
      const reference = file.readFloat32Sync(`grad.${module.path}.lora_B.weight`);
      expect(
        maxDifference(grads![2 * i + 1]!.dataSync(), reference) / maxAbs(reference),
        module.path,
      ).toBeLessThan(gradTolerance);
    });
  });

  test('decoded logprobs equal scoring the same tokens', async () => {
    const sampler = new Sampler(base, trainer.head, {
      maxSlots: 4,
      kvBudgetBytes: 1e9,
      prefillTokens: 128,
      xla: false,
      tokenizer: () => {
        throw new Error('no stop strings here');
      },
    });
    const request = (prompt: number[], maxTokens: number, promptLogprobs: boolean) => ({
      samplerId: 's',
      prompt: Int32Array.from(prompt),
      numSamples: 1,
      params: { maxTokens, temperature: 1, topK: -1, topP: 1, seed: 3n, stop: { tokenIds: [], strings: [] } },
      promptLogprobs,
      topkPromptLogprobs: 0,
      topkSampleLogprobs: 0,
      promptAltTokensK: 0,
    });
    const run = async (...args: Parameters<typeof request>) => {
      const result = sampler.submit(request(...args), adapter);
      while (sampler.hasWork) sampler.work();
      return result;
    };
    const prompt = fixture.reference.greedy.prompt;
    const { tokens, logprobs } = (await run(prompt, 20, false)).sequences[0]!;
    const scored = (await run([...prompt, ...tokens], 1, true)).promptLogprobs!.subarray(prompt.length);
    expect(maxDifference(logprobs, scored)).toBeLessThan(pathTolerance);
  });
});

/**
 * Weights in 8 bits: exactly what a checkpoint of the rounded values gives. Products in bfloat16: close to the float32 reference.
 * Both are the same on every path.
 */
import { copyFileSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { openSafetensors, writeSafetensors } from '@anneal/safetensors';
import { quantiseRows, SCALE_BYTES } from '@anneal/tensorflow';
import { afterAll, describe, expect, test } from 'vitest';
import { LoraAdapter } from '../src/lora/adapter.ts';
import { BaseModel } from '../src/models/base-model.ts';
import { Sampler } from '../src/sampling/sampler.ts';
import { archFixture, loraSpec, maxAbs, maxDifference } from '../src/testing/fixtures.ts';
import '../src/testing/tensorflow.ts';
import { Trainer } from '../src/training/trainer.ts';

type Fixture = ReturnType<typeof archFixture>;

const VARIANT = 'r8_unembed';

/** What is the same for every precision: the fixture's adapter, and its loss with the gradients of all B. */
function trained(fixture: Fixture, base: BaseModel) {
  const trainer = new Trainer(base, { activationBudgetBytes: 1e9 });
  const file = fixture.lora(VARIANT);
  const adapter = LoraAdapter.from(base, loraSpec({ rank: 8, trainUnembed: true }), ({ path: module }) => ({
    a: file.readFloat32Sync(`init.${module}.lora_A.weight`),
    b: file.readFloat32Sync(`init.${module}.lora_B.weight`),
  }));
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
  const gradients = adapter
    .modules()
    .map(({ module }, i) => ({ path: module.path, values: grads![2 * i + 1]!.dataSync() as Float32Array }));
  return { trainer, adapter, loss: metrics['loss:sum']!, gradients };
}

function reference(fixture: Fixture): { loss: number; gradient(module: string): Float32Array } {
  const file = fixture.lora(VARIANT);
  return {
    loss: fixture.reference.lora[VARIANT]!.loss[0]!,
    gradient: (module) => file.readFloat32Sync(`grad.${module}.lora_B.weight`),
  };
}

/** The rows' values after rounding to 8 bits. */
function rounded(values: Float32Array, width: number): Float32Array {
  const packed = quantiseRows(values, width);
  const view = new DataView(packed.buffer);
  return values.map((_, i) => {
    const row = Math.floor(i / width) * (width + SCALE_BYTES);
    return packed[row + (i % width)]! * view.getFloat32(row + width, true);
  });
}

/** A copy of a checkpoint in float32 whose matrices hold their rounded values. */
async function roundedCheckpoint(folder: string): Promise<string> {
  const copy = mkdtempSync(path.join(tmpdir(), 'anneal-int8-'));
  const file = openSafetensors(folder);
  const tensors = file.tensors.map(({ name, shape }) => {
    const values = file.readFloat32Sync(name);
    const data = shape.length >= 2 ? rounded(values, shape.at(-1)!) : values;
    return { name, dtype: 'F32' as const, shape, data };
  });
  await writeSafetensors(path.join(copy, 'model.safetensors'), tensors);
  copyFileSync(path.join(folder, 'config.json'), path.join(copy, 'config.json'));
  return copy;
}

test.each(['llama3', 'qwen3_moe'])(
  '%s in int8 trains like a checkpoint of the rounded values',
  async (family) => {
    const fixture = archFixture(family);
    const folder = await roundedCheckpoint(fixture.modelDir);
    const bases = [
      BaseModel.load(fixture.modelDir, 'int8', 'fp32'),
      BaseModel.load(folder, 'fp32', 'fp32'),
    ] as const;
    const [got, want] = [trained(fixture, bases[0]), trained(fixture, bases[1])];
    expect(Math.abs(got.loss - want.loss) / want.loss).toBeLessThan(1e-5);
    got.gradients.forEach(({ path: module, values }, i) => {
      const { values: wanted } = want.gradients[i]!;
      expect(maxDifference(values, wanted) / maxAbs(wanted), module).toBeLessThan(1e-4);
    });
    const exact = reference(fixture);
    expect(Math.abs(got.loss - exact.loss) / exact.loss).toBeLessThan(0.01);
    for (const { trainer } of [got, want]) trainer.dispose();
    for (const base of bases) base.dispose();
    rmSync(folder, { recursive: true });
  },
);

test('llama3 in bf16 has a loss and gradients near those of float32', () => {
  const fixture = archFixture('llama3');
  const base = BaseModel.load(fixture.modelDir, 'bf16', 'bf16');
  const { trainer, loss, gradients } = trained(fixture, base);
  const exact = reference(fixture);
  expect(Math.abs(loss - exact.loss) / exact.loss).toBeLessThan(0.01);
  for (const { path: module, values } of gradients) {
    const wanted = exact.gradient(module);
    expect(maxDifference(values, wanted) / maxAbs(wanted), module).toBeLessThan(0.1);
  }
  trainer.dispose();
  base.dispose();
});

describe.each([
  ['llama3', 'bf16', 'bf16', 0.1],
  ['llama3', 'int8', 'fp32', 1e-4],
  ['qwen3_moe', 'int8', 'fp32', 1e-4],
] as const)('%s in %s', (family, precision, products, pathTolerance) => {
  const fixture = archFixture(family);
  const base = BaseModel.load(fixture.modelDir, precision, products);
  const { trainer, adapter } = trained(fixture, base);
  afterAll(() => {
    trainer.dispose();
    base.dispose();
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

import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { prepareTensorflow } from '@anneal/tensorflow';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Engine, EngineError, type SampleRequest } from '../src/engine.ts';
import { archFixture, fixturePath, loraSpec, maxDifference } from '../src/testing/fixtures.ts';
import { createWorkerEngine } from '../src/worker-engine.ts';

const fixture = archFixture('llama3');
const ADAM = { learningRate: 1e-2, beta1: 0.9, beta2: 0.95, eps: 1e-12, weightDecay: 0, gradClipNorm: 0 };
let engine: Engine;
let dir: string;

beforeAll(async () => {
  const { addonPath } = await prepareTensorflow();
  const models = [
    { name: 'llama', folder: fixture.modelDir },
    { name: 'alias', folder: fixture.modelDir },
  ];
  engine = await createWorkerEngine({ addonPath, models, precision: 'fp32' });
  dir = await mkdtemp(path.join(tmpdir(), 'anneal-engine-'));
});
afterAll(async () => {
  await engine.close();
  await rm(dir, { recursive: true });
});

const step = async (modelId: string, data = fixture.data) => {
  const call = { modelId, data, lossFn: 'cross_entropy', lossFnConfig: {}, forwardOnly: false };
  const [result] = await Promise.all([engine.forwardBackward(call), engine.optimStep(modelId, ADAM)]);
  return result.metrics['loss:sum']!;
};
const score = (samplerId: string): SampleRequest => ({
  samplerId,
  prompt: Int32Array.from(fixture.reference.sequences[0]!.tokens),
  numSamples: 1,
  params: { maxTokens: 1, temperature: 0, topK: -1, topP: 1 },
  promptLogprobs: true,
  topkPromptLogprobs: 0,
  topkSampleLogprobs: 0,
  promptAltTokensK: 0,
});
const spec = loraSpec({ seed: 7n, trainUnembed: true });

test('both names of a folder are served', async () => {
  expect((await engine.baseModels()).map(({ name }) => name)).toEqual(['llama', 'alias']);
});

test('a resumed model steps exactly as the uninterrupted one, and a cold optimizer does not', async () => {
  await engine.createModel({ modelId: 'live', baseModel: 'alias', lora: spec });
  for (let i = 0; i < 3; i++) await step('live');
  await engine.saveCheckpoint({ modelId: 'live', dir, kind: 'training' });
  expect((await readdir(dir)).sort()).toEqual([
    'adapter_config.json',
    'adapter_model.safetensors',
    'anneal.json',
    'optimizer.safetensors',
  ]);
  const warm = await engine.loadCheckpoint({ modelId: 'warm', dir, withOptimizer: true });
  expect(warm).toEqual({ baseModel: 'alias', lora: spec, step: 3 });
  await engine.loadCheckpoint({ modelId: 'cold', dir, withOptimizer: false });
  const next = async (modelId: string) => [await step(modelId), await step(modelId)];
  const [live, resumed, cold] = [await next('live'), await next('warm'), await next('cold')];
  expect(resumed).toEqual(live);
  expect(cold[0]).toBe(live[0]);
  expect(cold[1]).not.toBe(live[1]);
});

test("a model's sampler keeps the weights of its moment while training goes on", async () => {
  await engine.createModel({ modelId: 'moving', baseModel: 'llama', lora: spec });
  await step('moving');
  await engine.openSampler('frozen', { kind: 'model', modelId: 'moving' });
  const before = (await engine.sample(score('frozen'))).promptLogprobs!;
  for (let i = 0; i < 3; i++) await step('moving');
  const after = (await engine.sample(score('frozen'))).promptLogprobs!;
  expect(after).toEqual(before);
  await engine.openSampler('later', { kind: 'model', modelId: 'moving' });
  const later = (await engine.sample(score('later'))).promptLogprobs!;
  expect(maxDifference(later.subarray(1), before.subarray(1))).toBeGreaterThan(0.01);
});

test('refusals cross the thread with their category, and the engine goes on', async () => {
  const unknown = engine.createModel({ modelId: 'x', baseModel: 'nobody/knows', lora: spec });
  await expect(unknown).rejects.toThrow(/"nobody\/knows" is not served here; served: llama, alias/);
  await expect(unknown).rejects.toMatchObject({ category: 'user' });
  const rank = engine.createModel({ modelId: 'x', baseModel: 'llama', lora: { ...spec, rank: 0 } });
  await expect(rank).rejects.toThrow(/rank is 0/);
  await expect(
    engine.loadCheckpoint({ modelId: 'x', dir: fixturePath('tables'), withOptimizer: false }),
  ).rejects.toBeInstanceOf(EngineError);
  await engine.openSampler('base', { kind: 'base', baseModel: 'llama' });
  const tooLong = engine.sample({
    ...score('base'),
    params: { maxTokens: 10_000, temperature: 1, topK: -1, topP: 1 },
  });
  await expect(tooLong).rejects.toThrow(/exceeds the model's context window: 23 \+ 10000 > 512/);
  expect((await engine.sample(score('base'))).sequences[0]!.tokens.length).toBe(1);
});

test('a cancelled sample is rejected, and its neighbours are not', async () => {
  await engine.openSampler('cancel', { kind: 'base', baseModel: 'llama' });
  const long = {
    ...score('cancel'),
    promptLogprobs: false,
    params: { maxTokens: 300, temperature: 1, topK: -1, topP: 1, stop: { tokenIds: [], strings: [] } },
  };
  const abort = new AbortController();
  // As soon as it runs: what 300 tokens take is not for a test to know.
  const cancelled = engine.sample(long, { signal: abort.signal, onProgress: () => abort.abort() });
  const neighbour = engine.sample({ ...long, params: { ...long.params, maxTokens: 60 } });
  await expect(cancelled).rejects.toThrow(/cancelled/);
  expect((await neighbour).sequences[0]!.tokens.length).toBe(60);
});

test('tokens arrive while they are drawn', async () => {
  await engine.openSampler('stream', { kind: 'base', baseModel: 'llama' });
  const seen: number[] = [];
  const request = {
    ...score('stream'),
    params: { maxTokens: 12, temperature: 1, topK: -1, topP: 1, stop: { tokenIds: [], strings: [] } },
  };
  const result = await engine.sample(request, { onProgress: ({ tokens }) => seen.push(...tokens) });
  expect(seen).toEqual([...result.sequences[0]!.tokens]);
});

test('200 training steps and 200 samples leave the number of tensors as it was', async () => {
  await engine.createModel({ modelId: 'long', baseModel: 'llama', lora: spec });
  await engine.openSampler('many', { kind: 'base', baseModel: 'llama' });
  const round = () =>
    Promise.all([
      step('long', fixture.data.slice(0, 1)),
      engine.sample({ ...score('many'), params: { maxTokens: 3, temperature: 1, topK: -1, topP: 1 } }),
    ]);
  for (let i = 0; i < 5; i++) await round();
  const before = (await engine.status()).numTensors;
  for (let i = 0; i < 200; i++) await round();
  expect((await engine.status()).numTensors).toBe(before);
});

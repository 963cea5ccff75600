/** Base models that take turns in memory: nobody can tell but by the clock. */
import { cpSync, mkdtempSync, renameSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { tf } from '@anneal/tensorflow';
import { afterAll, expect, test } from 'vitest';
import type { SampleRequest } from '../src/engine.ts';
import { LocalEngine } from '../src/local-engine.ts';
import { BaseModel } from '../src/models/base-model.ts';
import { archFixture, loraSpec } from '../src/testing/fixtures.ts';
import '../src/testing/tensorflow.ts';

const root = mkdtempSync(path.join(tmpdir(), 'anneal-models-'));
afterAll(() => rmSync(root, { recursive: true }));

const families = { llama: archFixture('llama3'), qwen: archFixture('qwen3') };
type Name = keyof typeof families;
const names = Object.keys(families) as Name[];
const bytesOf = (name: Name) => BaseModel.open(families[name].modelDir, 'auto').weightBytes;
/** Room for either, but not for both. */
const oneAtATime = Math.max(...names.map(bytesOf));

const adam = { learningRate: 1e-2, beta1: 0.9, beta2: 0.95, eps: 1e-8, weightDecay: 0, gradClipNorm: 0 };
const lora = loraSpec({ seed: 3n, trainUnembed: true });

function open(modelMemoryBytes: number | undefined, folders: Partial<Record<Name, string>> = {}) {
  return LocalEngine.create({
    models: names.map((name) => ({ name, folder: folders[name] ?? families[name].modelDir })),
    precision: 'auto',
    ...(modelMemoryBytes === undefined ? {} : { modelMemoryBytes }),
  });
}

const scored = (samplerId: string, name: Name): SampleRequest => ({
  samplerId,
  prompt: Int32Array.from(families[name].reference.sequences[0]!.tokens),
  numSamples: 2,
  params: { maxTokens: 5, temperature: 1, topK: -1, topP: 1, seed: 5n },
  promptLogprobs: true,
  topkPromptLogprobs: 0,
  topkSampleLogprobs: 0,
  promptAltTokensK: 0,
});

const pass = (engine: LocalEngine, model: Name) =>
  engine.forwardBackward({
    modelId: `my-${model}`,
    data: families[model].data,
    lossFn: 'cross_entropy',
    lossFnConfig: {},
    forwardOnly: false,
  });

/** Two steps of a model on each base, in turns, with samples of the base and of the model after each. */
async function work(engine: LocalEngine): Promise<unknown[]> {
  const results: unknown[] = [];
  for (const name of names) await engine.createModel({ modelId: `my-${name}`, baseModel: name, lora });
  for (const name of names) await engine.openSampler(`base-${name}`, { kind: 'base', baseModel: name });
  for (let step = 0; step < 2; step++) {
    for (const name of names) {
      results.push(await pass(engine, name));
      const other = names.find((candidate) => candidate !== name)!;
      results.push(await engine.sample(scored(`base-${other}`, other)));
      // The gradient of the pass has outlived its base model.
      results.push(await engine.optimStep(`my-${name}`, adam));
      await engine.openSampler(`mine-${name}-${step}`, { kind: 'model', modelId: `my-${name}` });
    }
  }
  for (const name of names) {
    for (let step = 0; step < 2; step++)
      results.push(await engine.sample(scored(`mine-${name}-${step}`, name)));
  }
  return results;
}

// Each engine compiles what both families run.
const PATIENCE = { timeout: 300_000 };

test(
  'training and samples that evict each other give exactly what they give with room for all',
  PATIENCE,
  async () => {
    const [roomy, narrow] = [await open(undefined), await open(oneAtATime)];
    const wanted = await work(roomy);
    expect(await work(narrow)).toEqual(wanted);
    const [kept, evicted] = [await roomy.status(), await narrow.status()];
    expect([kept.baseLoads, kept.baseUnloads]).toEqual([2, 0]);
    expect(evicted.baseUnloads).toBeGreaterThan(4);
    expect(evicted.baseWeightBytes).toBeLessThanOrEqual(oneAtATime);
    expect(evicted.baseModels.filter(({ state }) => state === 'loaded')).toHaveLength(1);
    await roomy.close();
    await narrow.close();
  },
);

test('calls that wait together on several bases keep the order of each model', PATIENCE, async () => {
  const all = async (budget: number | undefined) => {
    const engine = await open(budget);
    for (const name of names) await engine.createModel({ modelId: `my-${name}`, baseModel: name, lora });
    const calls = [0, 1, 2].flatMap(() =>
      names.flatMap((name) => [pass(engine, name), engine.optimStep(`my-${name}`, adam)]),
    );
    const results = await Promise.all(calls);
    await engine.close();
    return results;
  };
  expect(await all(oneAtATime)).toEqual(await all(undefined));
});

test('an evicted model leaves no tensor behind, and loads to the same logits', async () => {
  const base = BaseModel.open(families.llama.modelDir, 'auto');
  const before = tf.memory().numTensors;
  for (const _ of base.loading());
  const head = () => base.head.shape.join();
  expect(head()).toBe('368,64');
  base.unload();
  expect(tf.memory().numTensors).toBe(before);
  expect(head).toThrow('not loaded');

  const engine = await open(oneAtATime);
  for (const name of names) await engine.openSampler(name, { kind: 'base', baseModel: name });
  const sample = (name: Name) => engine.sample(scored(name, name));
  const first = { llama: await sample('llama'), qwen: await sample('qwen') };
  await sample('llama');
  const tensors = tf.memory().numTensors;
  for (let i = 0; i < 3; i++) {
    expect(await sample('qwen')).toEqual(first.qwen);
    expect(await sample('llama')).toEqual(first.llama);
    expect(tf.memory().numTensors).toBe(tensors);
  }
  await engine.close();
  expect(tf.memory().numTensors).toBe(before);
});

test('a load that fails says why, leaves the others alone, and is tried again', async () => {
  const folder = path.join(root, 'qwen');
  cpSync(families.qwen.modelDir, folder, { recursive: true });
  const engine = await open(oneAtATime, { qwen: folder });
  await engine.openSampler('llama', { kind: 'base', baseModel: 'llama' });
  const [file, away] = [path.join(folder, 'model.safetensors'), path.join(root, 'away')];
  renameSync(file, away);
  await engine.openSampler('qwen', { kind: 'base', baseModel: 'qwen' });
  const tensors = tf.memory().numTensors;
  const refused = engine.createModel({ modelId: 'my-qwen', baseModel: 'qwen', lora });
  await expect(refused).rejects.toThrow(/base_model "qwen" cannot be loaded: .*cannot be read/);
  await expect(engine.sample(scored('qwen', 'qwen'))).rejects.toThrow('cannot be loaded');
  expect(tf.memory().numTensors).toBeLessThanOrEqual(tensors);
  await engine.sample(scored('llama', 'llama'));
  renameSync(away, file);
  await engine.createModel({ modelId: 'my-qwen', baseModel: 'qwen', lora });
  expect((await pass(engine, 'qwen')).metrics['loss:sum']).toBeGreaterThan(0);
  await engine.close();
});

test('a model larger than the budget is refused at the start, or when it is asked for', async () => {
  const [small, large] = [...names].sort((a, b) => bytesOf(a) - bytesOf(b)) as [Name, Name];
  const options = { precision: 'auto' as const, modelMemoryBytes: bytesOf(large) - 1 };
  const entry = (name: Name) => ({ name, folder: families[name].modelDir });
  await expect(LocalEngine.create({ ...options, models: [entry(large)] })).rejects.toThrow(
    `"${large}" cannot be loaded`,
  );
  const engine = await LocalEngine.create({ ...options, models: [entry(small), entry(large)] });
  const refusals = await Promise.allSettled([
    engine.createModel({ modelId: 'm', baseModel: large, lora }),
    engine.openSampler('s', { kind: 'base', baseModel: large }),
  ]);
  for (const refusal of refusals)
    expect(refusal).toMatchObject({ reason: { message: expect.stringContaining('--model-memory-mib') } });
  await engine.close();
});

test(
  'a sample that waits for its model can be cancelled, and one that waits at the end is refused',
  PATIENCE,
  async () => {
    const engine = await open(oneAtATime);
    for (const name of names) await engine.openSampler(name, { kind: 'base', baseModel: name });
    await engine.sample(scored('llama', 'llama'));
    const long = { ...scored('llama', 'llama'), promptLogprobs: false };
    const busy = engine.sample({
      ...long,
      params: { ...long.params, maxTokens: 60, stop: { tokenIds: [], strings: [] } },
    });
    const abort = new AbortController();
    const cancelled = engine.sample(scored('qwen', 'qwen'), { signal: abort.signal });
    const refused = engine.sample(scored('qwen', 'qwen'));
    const ends = Promise.allSettled([cancelled, refused]);
    abort.abort();
    await expect(cancelled).rejects.toThrow('The sample was cancelled.');
    const closing = engine.close();
    expect((await busy).sequences[0]!.tokens.length).toBe(60);
    await closing;
    expect((await ends)[1]).toMatchObject({ status: 'rejected', reason: { category: 'server' } });
  },
);

/** Small training calls that wait together share a pass, and nobody can tell but by the clock. */
import { expect, test } from 'vitest';
import type { ForwardBackwardResult, OptimStepResult } from '../src/engine.ts';
import { LocalEngine } from '../src/local-engine.ts';
import { archFixture } from '../src/testing/fixtures.ts';
import '../src/testing/tensorflow.ts';

const fixture = archFixture('llama3');
const lora = { rank: 4, alpha: 32, trainAttn: true, trainMlp: true, trainUnembed: false };
const adam = { learningRate: 1e-2, beta1: 0.9, beta2: 0.95, eps: 1e-8, weightDecay: 0, gradClipNorm: 0 };

async function engineWith(models: string[]): Promise<LocalEngine> {
  const engine = await LocalEngine.create({
    models: [{ name: 'tiny', folder: fixture.modelDir }],
    precision: 'auto',
  });
  for (const [i, modelId] of models.entries())
    await engine.createModel({ modelId, baseModel: 'tiny', lora: { ...lora, seed: BigInt(i) } });
  return engine;
}

const pass = (engine: LocalEngine, modelId: string, datum: number, lossFn = 'cross_entropy') =>
  engine.forwardBackward({
    modelId,
    data: [fixture.data[datum]!],
    lossFn,
    lossFnConfig: {},
    forwardOnly: false,
  });

type Results = (ForwardBackwardResult | OptimStepResult)[];

/** Two steps of each model, every call submitted before the first has ended, or one after the other. */
async function train(models: string[], inTurn: boolean): Promise<{ results: Results; passes: number }> {
  const engine = await engineWith(models);
  await engine.startProfile();
  const calls = [0, 1].flatMap((step) => [
    ...models.map((model, i) => () => pass(engine, model, (i + step) % 3)),
    ...models.map((model) => () => pass(engine, model, 2)),
    ...models.map((model) => () => engine.optimStep(model, adam)),
  ]);
  const results: Results = [];
  if (inTurn) for (const call of calls) results.push(await call());
  else results.push(...(await Promise.all(calls.map((call) => call()))));
  const { spans } = await engine.stopProfile();
  const passes = spans.filter(({ category, name }) => category === 'unit' && name === 'train pass').length;
  await engine.close();
  return { results, passes };
}

test('calls that wait together give the results of calls in turn, in fewer passes', async () => {
  const models = ['a', 'b', 'c'];
  const inTurn = await train(models, true);
  const joined = await train(models, false);
  expect(inTurn.passes).toBe(12);
  expect(joined.passes).toBeLessThan(7);
  joined.results.forEach((result, i) => {
    for (const [name, value] of Object.entries(inTurn.results[i]!.metrics)) {
      expect(Math.abs(result.metrics[name]! - value), name).toBeLessThan(1e-4 * (1 + Math.abs(value)));
    }
  });
});

test('a refused call among them fails alone', async () => {
  const engine = await engineWith(['a', 'b']);
  const broken = engine.forwardBackward({
    modelId: 'a',
    data: [{ ...fixture.data[0]!, tokens: Int32Array.of(999_999) }],
    lossFn: 'cross_entropy',
    lossFnConfig: {},
    forwardOnly: false,
  });
  const unknown = pass(engine, 'nobody', 0);
  const other = pass(engine, 'b', 1, 'no_such_loss');
  const good = pass(engine, 'b', 0);
  await expect(broken).rejects.toThrow('999999');
  await expect(unknown).rejects.toThrow('nobody');
  await expect(other).rejects.toThrow('no_such_loss');
  expect((await good).metrics['loss:sum']).toBeGreaterThan(0);
  await engine.close();
});

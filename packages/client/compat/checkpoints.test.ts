import { expect, test } from 'vitest';
import { NotFoundError, ParsedCheckpointTinkerPath } from '../src/index.ts';
import {
  BASE_MODEL,
  crossEntropy,
  distance,
  newModel,
  promptLogprobs,
  rest,
  score,
  service,
  step,
  TIGHT,
  TOLERANCE,
  tokensOf,
  unique,
} from './support.ts';

const RATE = { learning_rate: 1e-2 };

test('weights are resumed exactly, in a new model and in a live one', async () => {
  const model = await newModel();
  const ids = tokensOf(9, 20);
  await step(model, [crossEntropy(ids)], RATE);
  const saved = await score(model, ids);
  const name = unique('st');
  const { path } = await model.saveState(name);
  expect(ParsedCheckpointTinkerPath.fromTinkerPath(path)).toMatchObject({
    training_run_id: model.modelId,
    checkpoint_id: `weights/${name}`,
  });
  for (let count = 0; count < 2; count++) await step(model, [crossEntropy(ids)], RATE);
  expect(distance(await score(model, ids), saved)).toBeGreaterThan(0.01);
  const again = await service.createTrainingClientFromState(path);
  expect(again.modelId).not.toBe(model.modelId);
  expect(distance(await score(again, ids), saved)).toBeLessThanOrEqual(TIGHT);
  await model.loadState(path);
  expect(distance(await score(model, ids), saved)).toBeLessThanOrEqual(TIGHT);
});

test('the optimizer is really restored: the next step equals the uninterrupted one', async () => {
  const [ids, other] = [tokensOf(10, 21), tokensOf(10, 22)];
  const model = await newModel({ seed: 3 });
  for (let count = 0; count < 4; count++) await step(model, [crossEntropy(ids)], RATE);
  const { path } = await model.saveState(unique('opt'));
  const warm = await service.createTrainingClientFromStateWithOptimizer(path);
  const cold = await service.createTrainingClientFromState(path);
  for (const client of [model, warm, cold]) await step(client, [crossEntropy(other)], RATE);
  const [live, hot, off] = await Promise.all([score(model, ids), score(warm, ids), score(cold, ids)]);
  expect(distance(live, hot)).toBeLessThanOrEqual(TOLERANCE);
  expect(distance(live, off)).toBeGreaterThan(3 * Math.max(distance(live, hot), TIGHT));
});

test('a snapshot does not move when training goes on', async () => {
  const model = await newModel();
  const ids = tokensOf(8, 23);
  await step(model, [crossEntropy(ids)], RATE);
  const sampler = await model.saveWeightsAndGetSamplingClient();
  const before = (await promptLogprobs(sampler, ids)).slice(1);
  expect(distance(before, await score(model, ids))).toBeLessThanOrEqual(TOLERANCE);
  for (let count = 0; count < 2; count++) await step(model, [crossEntropy(ids)], { learning_rate: 2e-2 });
  expect(distance((await promptLogprobs(sampler, ids)).slice(1), before)).toBeLessThanOrEqual(TIGHT);
  expect(distance(await score(model, ids), before)).toBeGreaterThan(0.05);
});

test('a named sampler checkpoint', async () => {
  const model = await newModel();
  const ids = tokensOf(8, 24);
  await step(model, [crossEntropy(ids)], RATE);
  const name = unique('smp');
  const { path } = await model.saveWeightsForSampler(name);
  expect(path).toBe(`tinker://${model.modelId}/sampler_weights/${name}`);
  const sampler = await service.createSamplingClient({ modelPath: path });
  expect(sampler.getBaseModel()).toBe(BASE_MODEL);
  expect(
    distance((await promptLogprobs(sampler, ids)).slice(1), await score(model, ids)),
  ).toBeLessThanOrEqual(TOLERANCE);
  const { checkpoints } = await rest.listCheckpoints(model.modelId);
  expect(checkpoints.find(({ tinker_path }) => tinker_path === path)).toMatchObject({
    checkpoint_id: `sampler_weights/${name}`,
    checkpoint_type: 'sampler',
  });
});

test('delete removes', async () => {
  const model = await newModel({ rank: 4 });
  const { path } = await model.saveState(unique('del'));
  await rest.deleteCheckpointFromTinkerPath(path);
  const { checkpoints } = await rest.listCheckpoints(model.modelId);
  expect(checkpoints.map(({ tinker_path }) => tinker_path)).not.toContain(path);
  await expect(service.createTrainingClientFromState(path)).rejects.toThrow();
  await expect(rest.deleteCheckpointFromTinkerPath(path)).rejects.toBeInstanceOf(NotFoundError);
});

test('what a run and a checkpoint say of themselves', async () => {
  const model = await newModel({ rank: 4, userMetadata: { who: 'compat' }, trainUnembed: false });
  const { path } = await model.saveState(unique('info'), { userMetadata: { step: '1' } });
  expect(await rest.getTrainingRun(model.modelId)).toMatchObject({
    base_model: BASE_MODEL,
    is_lora: true,
    lora_rank: 4,
    user_metadata: { who: 'compat' },
    last_checkpoint: { tinker_path: path },
  });
  expect((await rest.getTrainingRunByTinkerPath(path)).training_run_id).toBe(model.modelId);
  expect(await rest.getWeightsInfoByTinkerPath(path)).toMatchObject({
    base_model: BASE_MODEL,
    lora_rank: 4,
    train_unembed: false,
  });
  const { checkpoints } = await rest.listCheckpoints(model.modelId);
  const mine = checkpoints.find(({ tinker_path }) => tinker_path === path);
  expect(mine).toMatchObject({ user_metadata: { step: '1' } });
  expect(mine?.size_bytes).toBeGreaterThan(0);
});

test('publish and unpublish', async () => {
  const model = await newModel({ rank: 4 });
  const { path } = await model.saveWeightsForSampler(unique('pub'));
  const isPublic = async () => {
    const { checkpoints } = await rest.listCheckpoints(model.modelId);
    return checkpoints.find(({ tinker_path }) => tinker_path === path)?.public;
  };
  expect(await isPublic()).toBe(false);
  await rest.publishCheckpointFromTinkerPath(path);
  expect(await isPublic()).toBe(true);
  await rest.unpublishCheckpointFromTinkerPath(path);
  expect(await isPublic()).toBe(false);
});

test('every checkpoint and run is found by paging', async () => {
  const model = await newModel({ rank: 4 });
  const paths = [];
  for (let count = 0; count < 3; count++) paths.push((await model.saveState(unique('page'))).path);
  const found = new Set<string>();
  for await (const { tinker_path } of rest.userCheckpoints({ pageSize: 2 })) found.add(tinker_path);
  expect(paths.filter((path) => !found.has(path))).toEqual([]);
  const runs = new Set<string>();
  for await (const { training_run_id } of rest.trainingRuns({ pageSize: 2 })) runs.add(training_run_id);
  expect(runs.has(model.modelId)).toBe(true);
});

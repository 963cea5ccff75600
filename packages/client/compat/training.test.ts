import { beforeAll, expect, test } from 'vitest';
import type { LossFn, LossFnConfig, SamplingClient, TrainingClient } from '../src/index.ts';
import {
  adapterOf,
  BASE_MODEL,
  crossEntropy,
  distance,
  logprobsAt,
  nestedLogprobs,
  newModel,
  policy,
  promptLogprobs,
  raw,
  score,
  service,
  step,
  sum,
  TIGHT,
  TOLERANCE,
  tokensOf,
  unique,
} from './support.ts';

let shared: TrainingClient;
let base: SamplingClient;

beforeAll(async () => {
  shared = await newModel();
  base = await service.createSamplingClient({ baseModel: BASE_MODEL });
});

test('the loss is the weighted sum of the logprobs', async () => {
  const weights = [0, 0, 1, 1, 1, 0.5, 2, 0];
  const output = await shared.forward([crossEntropy(tokensOf(9, 1), weights)], 'cross_entropy');
  const logprobs = logprobsAt(output);
  expect(output.loss_fn_outputs[0]?.logprobs?.shape).toEqual([8]);
  expect(logprobs.every((lp) => lp <= 0 && Number.isFinite(lp))).toBe(true);
  expect(output.metrics['loss:sum']).toBeCloseTo(-sum(logprobs.map((lp, index) => lp * weights[index]!)), 2);
});

test('forward and forwardBackward agree', async () => {
  const model = await newModel();
  const data = [crossEntropy(tokensOf(12, 2))];
  const forward = logprobsAt(await model.forward(data, 'cross_entropy'));
  expect(
    distance(forward, logprobsAt(await model.forwardBackward(data, 'cross_entropy'))),
  ).toBeLessThanOrEqual(TIGHT);
});

test('outputs follow the order of the inputs', async () => {
  const sequences = [0, 1, 2, 3].map((index) => tokensOf(4 + index, 30 + index));
  const output = await shared.forward(
    sequences.map((ids) => crossEntropy(ids)),
    'cross_entropy',
  );
  for (const [index, ids] of sequences.entries()) {
    expect(distance(logprobsAt(output, index), await score(shared, ids))).toBeLessThanOrEqual(TOLERANCE);
  }
});

test('a fresh adapter is the base model', async () => {
  const ids = tokensOf(10, 3);
  const scored = (await promptLogprobs(base, ids)).slice(1);
  expect(distance(await score(shared, ids), scored)).toBeLessThanOrEqual(TOLERANCE);
});

test('targets need not be the next input', async () => {
  const ids = tokensOf(6, 4);
  const other = ids.slice(1).map((token) => token + 1);
  const datum = crossEntropy(ids);
  const output = await shared.forward(
    [{ ...datum, loss_fn_inputs: { target_tokens: other, weights: other.map(() => 1) } }],
    'cross_entropy',
  );
  for (const [index, lp] of logprobsAt(output).entries()) {
    const alone = await score(shared, [...ids.slice(0, index + 1), other[index]!]);
    expect(Math.abs(lp - alone.at(-1)!)).toBeLessThanOrEqual(TOLERANCE);
  }
});

test('soft targets: [T, K] ids and weights give [T, K] logprobs', async () => {
  const ids = tokensOf(5, 5);
  const target_tokens = ids.slice(1).map((token) => [token, token + 2]);
  const weights = target_tokens.map(() => [0.75, 0.25]);
  const datum = { ...crossEntropy(ids), loss_fn_inputs: { target_tokens, weights } };
  const output = await shared.forward([datum], 'cross_entropy');
  const logprobs = nestedLogprobs(output);
  expect(output.loss_fn_outputs[0]?.logprobs?.shape).toEqual([4, 2]);
  expect(
    distance(
      logprobs.map(([first]) => first!),
      await score(shared, ids),
    ),
  ).toBeLessThanOrEqual(TOLERANCE);
  const loss = -sum(logprobs.flatMap((row) => row.map((lp, k) => lp * [0.75, 0.25][k]!)));
  expect(output.metrics['loss:sum']).toBeCloseTo(loss, 2);
});

const clip = (value: number, low: number, high: number) => Math.min(Math.max(value, low), high);

test.each<[LossFn, LossFnConfig | undefined]>([
  ['importance_sampling', undefined],
  ['ppo', undefined],
  ['ppo', { clip_low_threshold: 0.9, clip_high_threshold: 1.05 }],
  ['cispo', { clip_low_threshold: 0.8, clip_high_threshold: 1.2 }],
  ['dro', { beta: 0.05 }],
])('%s equals its definition (%o)', async (lossFn, config) => {
  const ids = tokensOf(9, 6);
  const p = await score(shared, ids);
  const q = p.map((lp, index) => lp + 0.6 * Math.sin(index));
  const advantages = p.map((_, index) => Math.cos(3 * index));
  const output = await shared.forward([policy(ids, q, advantages)], lossFn, config);
  const low = Number(config?.clip_low_threshold ?? 0.8);
  const high = Number(config?.clip_high_threshold ?? 1.2);
  const terms = p.map((lp, index) => {
    const [ratio, advantage] = [Math.exp(lp - q[index]!), advantages[index]!];
    if (lossFn === 'importance_sampling') return ratio * advantage;
    if (lossFn === 'ppo') return Math.min(ratio * advantage, clip(ratio, low, high) * advantage);
    if (lossFn === 'cispo') return clip(ratio, low, high) * lp * advantage;
    return lp * advantage - 0.5 * 0.05 * (lp - q[index]!) ** 2;
  });
  expect(distance(logprobsAt(output), p)).toBeLessThanOrEqual(TOLERANCE);
  expect(Math.abs(output.metrics['loss:sum']! + sum(terms))).toBeLessThanOrEqual(0.05);
});

test('training overfits one datum', async () => {
  const model = await newModel({ rank: 16 });
  const ids = tokensOf(12, 8);
  const first = -sum(await score(model, ids));
  // Few steps: at this rate Adam leaves the minimum again once the gradient has all but vanished.
  for (let count = 0; count < 8; count++) await step(model, [crossEntropy(ids)], { learning_rate: 5e-3 });
  expect(-sum(await score(model, ids))).toBeLessThan(0.25 * first);
});

test.each([
  ['a step without gradients', async (model: TrainingClient) => model.optimStep({ learning_rate: 0.1 })],
  [
    'a learning rate of zero',
    async (model: TrainingClient) => step(model, [crossEntropy(tokensOf(8, 9))], { learning_rate: 0 }),
  ],
  [
    'a forward pass before a step',
    async (model: TrainingClient) => {
      await model.forward([crossEntropy(tokensOf(8, 9))], 'cross_entropy');
      await model.optimStep({ learning_rate: 0.1 });
    },
  ],
  [
    'a gradient that an earlier step has used',
    async (model: TrainingClient) => {
      await step(model, [crossEntropy(tokensOf(8, 9))], { learning_rate: 0, beta1: 0, beta2: 0 });
      await model.optimStep({ learning_rate: 0.05, beta1: 0, beta2: 0, eps: 1e-8 });
    },
  ],
])('%s changes nothing', async (_name, act) => {
  const model = await newModel();
  const ids = tokensOf(8, 9);
  const before = await score(model, ids);
  await act(model);
  expect(distance(await score(model, ids), before)).toBeLessThanOrEqual(TIGHT);
});

test('gradients add up over calls', async () => {
  const [a, b] = [tokensOf(8, 13), tokensOf(6, 14)];
  const [one, two] = [await newModel({ seed: 5 }), await newModel({ seed: 5 })];
  await step(one, [crossEntropy(a), crossEntropy(b)], { learning_rate: 1e-2 });
  await Promise.all([
    two.forwardBackward([crossEntropy(a)], 'cross_entropy'),
    two.forwardBackward([crossEntropy(b)], 'cross_entropy'),
    two.optimStep({ learning_rate: 1e-2 }),
  ]);
  expect(distance(await score(one, a), await score(two, a))).toBeLessThanOrEqual(TOLERANCE);
  expect(distance(await score(one, b), await score(two, b))).toBeLessThanOrEqual(TOLERANCE);
});

test('the same seed gives the same training', async () => {
  const ids = tokensOf(10, 15);
  const runs = [];
  for (let run = 0; run < 2; run++) {
    const model = await newModel({ seed: 2n ** 40n + 1n });
    for (let count = 0; count < 3; count++) await step(model, [crossEntropy(ids)], { learning_rate: 5e-3 });
    runs.push(await score(model, ids));
  }
  expect(distance(runs[0]!, runs[1]!)).toBeLessThanOrEqual(TOLERANCE);
});

test('training one model leaves another alone', async () => {
  const ids = tokensOf(8, 16);
  const [trained, other] = [await newModel(), await newModel()];
  const before = await score(other, ids);
  for (let count = 0; count < 3; count++) await step(trained, [crossEntropy(ids)], { learning_rate: 2e-2 });
  expect(distance(await score(other, ids), before)).toBeLessThanOrEqual(TIGHT);
  expect(distance(await score(trained, ids), before)).toBeGreaterThan(0.05);
});

test('the first Adam step moves B by the learning rate, and A not at all', async () => {
  const model = await newModel({ rank: 4 });
  const { tensors: before } = await adapterOf(model);
  await step(model, [crossEntropy(tokensOf(16, 17))], { learning_rate: 1e-3 });
  const { tensors: after } = await adapterOf(model);
  const moved = [...after].filter(([name]) => name.includes('lora_B')).flatMap(([, { data }]) => [...data]);
  const sizes = moved
    .filter((value) => value !== 0)
    .map(Math.abs)
    .sort((a, b) => a - b);
  expect(Math.abs(sizes[sizes.length >> 1]! - 1e-3)).toBeLessThan(5e-5);
  expect(sizes.at(-1)).toBeLessThan(1.05e-3);
  for (const [name, { data }] of [...after].filter(([name]) => name.includes('lora_A'))) {
    expect(distance([...data], [...before.get(name)!.data])).toBeLessThan(1e-5);
  }
});

test('a custom loss equals the built-in one', async () => {
  const ids = tokensOf(9, 18);
  const weights = [0, 1, 1, 0, 2, 1, 1, 1];
  const [one, two] = [await newModel({ seed: 9 }), await newModel({ seed: 9 })];
  const [builtIn] = await step(one, [crossEntropy(ids, weights)], { learning_rate: 1e-2 });
  const pass = two.forwardBackwardCustom([crossEntropy(ids)], (_data, [logprobs]) => ({
    loss: -sum([...logprobs!.data].map((lp, index) => lp * weights[index]!)),
    gradients: [weights.map((weight) => -weight)],
    metrics: { mine: 1 },
  }));
  await two.optimStep({ learning_rate: 1e-2 });
  expect((await pass).metrics).toMatchObject({ mine: 1 });
  expect((await pass).metrics['loss:sum']).toBeCloseTo(builtIn.metrics['loss:sum']!, 2);
  expect(distance(await score(one, ids), await score(two, ids))).toBeLessThanOrEqual(TOLERANCE);
});

test('eight requests in flight give what eight in sequence give', async () => {
  const ids = tokensOf(8, 19);
  const [sequential, parallel] = [await newModel({ seed: 4 }), await newModel({ seed: 4 })];
  const expected = [];
  for (let count = 0; count < 4; count++) {
    const [pass] = await step(sequential, [crossEntropy(ids)], { learning_rate: 1e-2 });
    expected.push(pass.metrics['loss:sum']!);
  }
  const passes = [0, 1, 2, 3].map(() => {
    const pass = parallel.forwardBackward([crossEntropy(ids)], 'cross_entropy');
    parallel.optimStep({ learning_rate: 1e-2 });
    return pass;
  });
  const losses = (await Promise.all(passes)).map(({ metrics }) => metrics['loss:sum']!);
  expect(distance(losses, expected)).toBeLessThan(0.01 * expected[0]! + TOLERANCE);
  expect(expected.at(-1)).toBeLessThan(expected[0]!);
});

test('a request waits for the number before it', async () => {
  const model = await newModel({ rank: 4 });
  const { modelId: model_id } = model;
  const early = await raw('/api/v1/save_weights', {
    model_id,
    seq_id: 2,
    path: unique('gap'),
    overwrite: false,
  });
  const { request_id } = early.body as { request_id: string };
  const poll = () => raw('/api/v1/retrieve_future', { request_id });
  expect(await Promise.race([poll(), new Promise((resolve) => setTimeout(resolve, 2000))])).not.toMatchObject(
    {
      status: 200,
      body: { path: expect.anything() },
    },
  );
  await model.optimStep({ learning_rate: 0 });
  await expect
    .poll(async () => (await poll()).body, { timeout: 60_000 })
    .toMatchObject({ path: expect.anything() });
});

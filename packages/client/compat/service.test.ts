import { expect, test } from 'vitest';
import { AuthenticationError, type LossFnType, RestClient, ServiceClient } from '../src/index.ts';
import {
  adapterOf,
  BASE_MODEL,
  crossEntropy,
  distance,
  newModel,
  raw,
  rest,
  score,
  service,
  TIGHT,
  tokensOf,
} from './support.ts';

test('the capabilities name the base model', async () => {
  const { supported_models } = await rest.getServerCapabilities();
  const mine = supported_models.find(({ model_name }) => model_name === BASE_MODEL);
  expect(mine?.max_context_length).toBeGreaterThan(0);
});

test('health', async () => {
  expect(await raw('/api/v1/healthz')).toEqual({ status: 200, body: { status: 'ok' } });
});

test('a wrong key is an AuthenticationError', async () => {
  const stranger = new RestClient({ apiKey: 'tml-not-a-key-of-this-server' });
  await expect(stranger.getServerCapabilities()).rejects.toBeInstanceOf(AuthenticationError);
});

test('an unknown base model is refused', async () => {
  await expect(service.createLoraTrainingClient({ baseModel: 'no-such/model' })).rejects.toThrow(
    'no-such/model',
  );
});

test.each([0, -4])('rank %i is refused before anything is sent', (rank) => {
  expect(() => service.createLoraTrainingClient({ baseModel: BASE_MODEL, rank })).toThrow('rank');
});

test('getInfo', async () => {
  const model = await newModel({ rank: 4 });
  expect(model.getInfo()).toMatchObject({
    model_id: model.modelId,
    is_lora: true,
    lora_rank: 4,
    model_data: { model_name: BASE_MODEL },
  });
});

test('a session lists its runs and samplers', async () => {
  const model = await newModel({ rank: 4 });
  const sampler = await model.saveWeightsAndGetSamplingClient();
  const session = await rest.getSession(service.sessionId!);
  expect(session.training_run_ids).toContain(model.modelId);
  expect(session.sampler_ids).toContain(sampler.samplerId);
  expect((await rest.listSessions({ limit: 100 })).sessions).toContain(service.sessionId);
});

test('an unknown future is refused at once', async () => {
  const { status, body } = await raw('/api/v1/retrieve_future', { request_id: 'no-such-request' });
  expect([400, 404, 410].includes(status) || 'error' in (body as object)).toBe(true);
});

test('heartbeat', async () => {
  const beat = (session_id: string) =>
    raw('/api/v1/session_heartbeat', { session_id, type: 'session_heartbeat' });
  expect((await beat(service.sessionId!)).status).toBe(200);
  expect((await beat('nope')).status).toBeGreaterThanOrEqual(400);
});

test('telemetry is taken', async () => {
  const talkative = new ServiceClient({ telemetry: true });
  await talkative.createSamplingClient({ baseModel: BASE_MODEL });
  talkative.getTelemetry()?.log('compat', { k: [1] });
  await talkative.close('success');
  const event = { event: 'GENERIC_EVENT', event_id: 'e', event_name: 'x', event_session_index: 0 };
  const events = [{ ...event, severity: 'INFO', timestamp: '2026-01-01T00:00:00Z', event_data: { k: [1] } }];
  const fields = {
    platform: 'Linux',
    sdk_version: '0.38.0',
    session_id: service.sessionId,
    process_uuid: 'p',
  };
  expect(await raw('/api/v1/telemetry', { ...fields, events })).toEqual({
    status: 200,
    body: { status: 'accepted' },
  });
});

test.each(['trainAttn', 'trainMlp', 'trainUnembed'] as const)(
  '%s alone selects its modules',
  async (only) => {
    const none = { trainAttn: false, trainMlp: false, trainUnembed: false };
    const { tensors } = await adapterOf(await newModel({ rank: 4, ...none, [only]: true }));
    const word = { trainAttn: /attn/, trainMlp: /mlp/, trainUnembed: /unembed|lm_head/ }[only];
    const names = [...tensors.keys()].filter((name) => name.includes('lora_A'));
    expect(names.length).toBeGreaterThan(0);
    expect(names.filter((name) => !word.test(name))).toEqual([]);
  },
);

test('an export holds PEFT files', async () => {
  const { tensors, config } = await adapterOf(await newModel({ rank: 4 }));
  expect(config).toMatchObject({ r: 4, lora_alpha: expect.any(Number) });
  const down = [...tensors.keys()].filter((name) => name.endsWith('.lora_A.weight'));
  expect(down.length).toBeGreaterThan(0);
  for (const name of down) {
    expect(name.startsWith('base_model.model.')).toBe(true);
    expect(tensors.get(name)?.shape[0]).toBe(4);
    expect(tensors.has(name.replace('lora_A', 'lora_B'))).toBe(true);
  }
});

const ids = tokensOf(6, 38);
const ones = ids.slice(1).map(() => 1);
const [inputs, targets] = [ids.slice(0, -1), ids.slice(1)];
const example = (tokens: number[], loss_fn_inputs: Record<string, number[]>) => ({
  model_input: { chunks: [{ type: 'encoded_text' as const, tokens }] },
  loss_fn_inputs,
});

test.each([
  ['too few targets', example(inputs, { target_tokens: targets.slice(1), weights: ones }), 'cross_entropy'],
  ['too few weights', example(inputs, { target_tokens: targets, weights: [1, 1] }), 'cross_entropy'],
  ['an id out of range', example([10 ** 8, 5], { target_tokens: [1, 2], weights: [1, 1] }), 'cross_entropy'],
  [
    'a target out of range',
    example([5, 6], { target_tokens: [1, 10 ** 8], weights: [1, 1] }),
    'cross_entropy',
  ],
  ['no targets', example(inputs, { weights: ones }), 'cross_entropy'],
  ['no advantages', example(inputs, { target_tokens: targets, logprobs: ones.map(() => -1) }), 'ppo'],
  [
    'NaN weights',
    example(inputs, { target_tokens: targets, weights: ones.map(() => Number.NaN) }),
    'cross_entropy',
  ],
  ['no tokens', example([], { target_tokens: [] }), 'cross_entropy'],
] as const)('%s: refused, and the client lives on', async (_name, datum, lossFn) => {
  const model = await newModel({ rank: 4 });
  await expect(model.forwardBackward([datum], lossFn)).rejects.toThrow();
  const after = await score(model, tokensOf(6, 39));
  expect(after.every(Number.isFinite)).toBe(true);
});

test('an unknown loss is refused by its name, and the client lives on', async () => {
  const model = await newModel({ rank: 4 });
  const refused = async () => model.forwardBackward([crossEntropy(ids)], 'no_such_loss' as LossFnType);
  await expect(refused()).rejects.toThrow('no_such_loss');
  expect((await score(model, ids)).every(Number.isFinite)).toBe(true);
});

test('an unknown config key is refused', async () => {
  const model = await newModel({ rank: 4 });
  const pass = model.forwardBackward([crossEntropy(ids)], 'cross_entropy', { no_such_key: 1 });
  await expect(pass).rejects.toThrow();
  expect(distance(await score(model, ids), await score(model, ids))).toBeLessThanOrEqual(TIGHT);
});

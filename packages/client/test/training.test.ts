import { expect, test } from 'vitest';
import {
  BadRequestError,
  RequestFailedError,
  RequestGoneError,
  TensorData,
  TinkerError,
} from '../src/index.ts';
import { logprobOf } from './reference-server.ts';
import { datumOf, start } from './setup.ts';

test('a step: passes and optimizer run in the order of the calls, though nothing is awaited between them', async () => {
  const { server, service } = await start();
  const model = await service.createLoraTrainingClient({ baseModel: 'base', rank: 8, seed: 2n ** 60n });
  const calls = [
    model.forwardBackward([datumOf(1, 2)], 'cross_entropy'),
    model.optimStep({ learning_rate: 1e-3 }),
    model.forward([datumOf(3)], 'cross_entropy'),
    model.forwardBackward([datumOf(4), datumOf(5)], 'ppo', { clip_low_threshold: 0.9 }),
    model.optimStep(),
    model.saveState('first'),
  ];
  await Promise.all(calls);
  expect(server.executed.map(({ what }) => what)).toEqual([
    'forward_backward:1',
    'optim_step',
    'forward:1',
    'forward_backward:2',
    'optim_step',
    'save_weights',
  ]);
  expect(server.executed.map(({ seqId }) => seqId)).toEqual([1, 2, 3, 4, 5, 6]);
  expect(await calls[4]).toMatchObject({ metrics: { gradient: 2 } });
  expect(await calls[5]).toMatchObject({ path: 'tinker://S0:train:0/weights/first' });
});

test('requests carry the defaults of the Python SDK, and integers of any size', async () => {
  const { server, service } = await start();
  const model = await service.createLoraTrainingClient({ baseModel: 'base', seed: 2n ** 64n - 1n });
  await model.optimStep();
  const [create] = server.callsTo('/create_model');
  expect(create?.body.toString()).toContain('"seed":18446744073709551615');
  expect(server.bodiesOf('/create_model')[0]).toMatchObject({
    session_id: 'S0',
    model_seq_id: 0,
    lora_config: { rank: 32, train_unembed: true, train_mlp: true, train_attn: true },
    optimizer_config: { type: 'adamw' },
    type: 'create_model',
  });
  expect(server.bodiesOf('/optim_step')[0]).toEqual({
    model_id: 'S0:train:0',
    seq_id: 1,
    type: 'optim_step',
    adam_params: {
      learning_rate: 1e-4,
      beta1: 0.9,
      beta2: 0.95,
      eps: 1e-12,
      weight_decay: 0,
      grad_clip_norm: 0,
    },
  });
});

test('the start-up calls come once and in order', async () => {
  const { server, service } = await start();
  const both = [1, 2].map(() => service.createLoraTrainingClient({ baseModel: 'base' }));
  const models = await Promise.all(both);
  expect(models.map(({ modelId }) => modelId)).toEqual(['S0:train:0', 'S0:train:1']);
  expect(server.calls.slice(0, 3).map(({ path }) => path)).toEqual([
    '/client/config',
    '/client/dynamic_config',
    '/create_session',
  ]);
  expect(server.callsTo('/create_session')).toHaveLength(1);
});

test('a large batch is split, its first part is sent last, its results are joined', async () => {
  const { server, service } = await start({ clientConfig: { fwdbwd_max_chunk_len: 2 } });
  const model = await service.createLoraTrainingClient({ baseModel: 'base' });
  const batch = [1, 2, 3, 4, 5].map((token) => datumOf(...Array.from({ length: token }, () => token)));
  const pass = model.forwardBackward(batch, 'cross_entropy');
  const step = model.optimStep();
  const result = await pass;
  expect(pass.requestIds).toEqual(['S0:train:0:1', 'S0:train:0:2', 'S0:train:0:3']);
  expect(result.loss_fn_outputs.map(({ logprobs }) => logprobs?.data.length)).toEqual([1, 2, 3, 4, 5]);
  const losses = batch.flatMap(({ loss_fn_inputs }) =>
    loss_fn_inputs.target_tokens.map((token, position) => -logprobOf(token, position)),
  );
  expect(result.metrics['loss:sum']).toBeCloseTo(
    losses.reduce((sum, loss) => sum + loss, 0),
    3,
  );
  expect(result.metrics['tokens:mean']).toBeCloseTo(3);
  expect(result.metrics).toMatchObject({
    'clock_cycle:unique': 1,
    'clock_cycle:unique_1': 2,
    'clock_cycle:unique_2': 3,
  });
  expect((await step).metrics).toEqual({ gradient: 5 });
  const arrivals = server.callsTo('/forward_backward').map(({ body }) => body.length);
  expect(arrivals).toHaveLength(3);
  expect(server.executed.map(({ what }) => what)).toEqual([
    'forward_backward:2',
    'forward_backward:2',
    'forward_backward:1',
    'optim_step',
  ]);
});

test('a failed request names its cause, and those after it run', async () => {
  const { service } = await start();
  const model = await service.createLoraTrainingClient({ baseModel: 'base' });
  const pass = model.forwardBackward([datumOf(666)], 'cross_entropy');
  const step = model.optimStep();
  const error = await pass.catch((reason: unknown) => reason as RequestFailedError);
  expect(error).toBeInstanceOf(RequestFailedError);
  expect(error).toMatchObject({ category: 'user', requestId: 'S0:train:0:1' });
  expect((error as Error).message).toContain('token 666 is out of range');
  expect((await step).metrics).toEqual({ gradient: 0 });
  await expect(model.saveState('taken')).rejects.toThrow('exists');
});

test('a training result that the server has lost is an error, and training goes on', async () => {
  const { server, service } = await start();
  const model = await service.createLoraTrainingClient({ baseModel: 'base' });
  server.gone.add('S0:train:0:1');
  const pass = model.forwardBackward([datumOf(1)], 'cross_entropy');
  const step = model.optimStep();
  await expect(pass).rejects.toBeInstanceOf(RequestGoneError);
  expect((await step).metrics).toEqual({ gradient: 1 });
});

test('what is wrong at the call throws there, and uses up no number', async () => {
  const { server, service } = await start();
  const model = await service.createLoraTrainingClient({ baseModel: 'base' });
  expect(() => model.forwardBackward([], 'cross_entropy')).toThrow('at least one datum');
  expect(() => model.optimStep({ beta1: 2 })).toThrow('beta1');
  expect(() => model.saveState('a/b')).toThrow('must not contain');
  expect(() => model.saveState('a', { signal: AbortSignal.abort(new Error('stop')) })).toThrow('stop');
  const image = { type: 'image_asset_pointer' as const, format: 'png' as const, location: 'file' };
  const datum = { ...datumOf(1), model_input: { chunks: [image] } };
  expect(() => model.forwardBackward([datum], 'cross_entropy')).toThrow('image_asset_pointer');
  await model.optimStep();
  expect(server.executed.map(({ seqId }) => seqId)).toEqual([1]);
});

test('what is wrong is a TypeError that names the field and the value', async () => {
  const { service } = await start();
  const model = await service.createLoraTrainingClient({ baseModel: 'base' });
  const good = datumOf(1, 2);
  const bad = { ...good, model_input: { chunks: [{ type: 'encoded_text' as const, tokens: [1, 2.5] }] } };
  const ragged = { ...good, loss_fn_inputs: { target_tokens: [[1, 2], [3]] } };
  const message = (call: () => unknown): string => {
    try {
      call();
    } catch (error) {
      expect(error).toBeInstanceOf(TypeError);
      return (error as Error).message;
    }
    return 'nothing was thrown';
  };
  expect(message(() => model.forward([good, bad], 'cross_entropy'))).toMatch(
    /^data\[1\]\.model_input\.chunks\[0\]\.tokens\[1\]: .*\(got 2\.5\)$/,
  );
  expect(message(() => model.forward([ragged], 'cross_entropy'))).toMatch(
    /^data\[0\]\.loss_fn_inputs\.target_tokens: /,
  );
  expect(message(() => model.forward([good], '' as 'ppo'))).toMatch(/^lossFn: .* \(got ""\)$/);
  expect(message(() => model.optimStep({ beta1: 2 }))).toMatch(/^adam_params\.beta1: .*\(got 2\)$/);
  expect(message(() => service.createLoraTrainingClient({ baseModel: 'base', rank: -4 }))).toMatch(
    /^lora_config\.rank: .*\(got -4\)$/,
  );
  expect(message(() => service.close('done' as 'success'))).toMatch(/^status: .*\(got "done"\)$/);
});

test('creations that are aborted before they are sent make nothing on the server', async () => {
  const { server, service } = await start();
  for (const create of [
    (signal: AbortSignal) => service.createLoraTrainingClient({ baseModel: 'base', signal }),
    (signal: AbortSignal) =>
      service.createTrainingClientFromState('tinker://r:train:0/weights/a', { signal }),
    (signal: AbortSignal) => service.createSamplingClient({ baseModel: 'base', signal }),
  ]) {
    const controller = new AbortController();
    const creation = create(controller.signal);
    controller.abort(new Error('changed my mind'));
    await expect(creation).rejects.toThrow('changed my mind');
  }
  const model = await service.createLoraTrainingClient({ baseModel: 'base' });
  expect(model.modelId).toBe('S0:train:0');
  expect(server.callsTo('/create_model')).toHaveLength(1);
  expect([...server.callsTo('/load_weights'), ...server.callsTo('/create_sampling_session')]).toEqual([]);
});

test('every training call tells its request id', async () => {
  const { service } = await start();
  const model = await service.createLoraTrainingClient({ baseModel: 'base' });
  const calls = [
    model.forward([datumOf(1)], 'cross_entropy'),
    model.optimStep(),
    model.saveState('a'),
    model.saveWeightsForSampler('b'),
    model.saveWeightsExternal('c'),
    model.saveWeightsAndGetSamplingClient(),
    model.loadState('tinker://S0:train:0/weights/a'),
  ];
  await Promise.all(calls);
  expect(calls.map(({ requestId }) => requestId)).toEqual(calls.map((_, index) => `S0:train:0:${index + 1}`));
});

test('saving, exporting and loading', async () => {
  const { server, service } = await start();
  const model = await service.createLoraTrainingClient({ baseModel: 'base' });
  expect(await model.saveWeightsForSampler('s', { ttlSeconds: 3600 })).toEqual({
    path: 'tinker://S0:train:0/sampler_weights/s',
  });
  expect(await model.saveWeightsExternal('e')).toEqual({ path: 'tinker://S0:train:0/external_weights/e' });
  await model.loadStateWithOptimizer('tinker://S0:train:0/weights/a');
  expect(server.bodiesOf('/load_weights')[0]).toMatchObject({
    model_id: 'S0:train:0',
    seq_id: 3,
    optimizer: true,
  });
  const sampler = await model.saveWeightsAndGetSamplingClient();
  expect([sampler.samplerId, sampler.getBaseModel()]).toEqual(['S0:sample:0', 'base']);
  const resumed = await service.createTrainingClientFromStateWithOptimizer('tinker://x:train:0/weights/a');
  expect(resumed.modelId).toBe('S0:train:1');
  expect(server.bodiesOf('/load_weights')[1]).toMatchObject({
    session_id: 'S0',
    model_seq_id: 1,
    optimizer: true,
  });
  expect(model.getInfo()).toMatchObject({ lora_rank: 8, model_data: { model_name: 'base' } });
});

test('a custom loss: its gradient reaches the server as weights, its metrics come back', async () => {
  const { server, service } = await start({ clientConfig: { fwdbwd_max_chunk_len: 1 } });
  const model = await service.createLoraTrainingClient({ baseModel: 'base' });
  const batch = [datumOf(1, 2), datumOf(3)];
  // Twice the negative log-likelihood: the gradient is -2 everywhere.
  const pass = model.forwardBackwardCustom(batch, (_data, logprobs) => ({
    loss: -2 * logprobs.reduce((sum, { data }) => sum + data.reduce((total, lp) => total + lp, 0), 0),
    gradients: logprobs.map(({ data }) => data.map(() => -2)),
    metrics: { mine: 7 },
  }));
  const step = model.optimStep();
  const result = await pass;
  const plain = await model.forwardBackward(batch, 'cross_entropy');
  const loss = plain.metrics['loss:sum']! * 2;
  expect(result.metrics).toMatchObject({ mine: 7 });
  expect(result.metrics['loss:sum']).toBeCloseTo(loss, 3);
  expect(result.metrics['surrogate_loss:sum']).toBeCloseTo(loss, 3);
  await step;
  expect(server.executed.map(({ what }) => what).slice(0, 5)).toEqual([
    'forward:1',
    'forward:1',
    'forward_backward:1',
    'forward_backward:1',
    'optim_step',
  ]);
});

test('a custom loss that fails poisons the client, because its numbers can never be sent', async () => {
  const { service } = await start();
  const model = await service.createLoraTrainingClient({ baseModel: 'base' });
  const pass = model.forwardBackwardCustom([datumOf(1)], () => {
    throw new Error('my loss is broken');
  });
  const queued = model.optimStep();
  await expect(pass).rejects.toThrow('my loss is broken');
  await expect(queued).rejects.toThrow(TinkerError);
  expect(() => model.optimStep()).toThrow('takes no more requests');
});

test('a gradient of another shape is refused', async () => {
  const { service } = await start();
  const model = await service.createLoraTrainingClient({ baseModel: 'base' });
  const pass = model.forwardBackwardCustom([datumOf(1, 2)], () => ({ loss: 0, gradients: [[1, 2, 3]] }));
  await expect(pass).rejects.toThrow('gradients[0] has shape [3], its logprobs [2]');
});

test('outputs are tensors of the type page', async () => {
  const { service } = await start();
  const model = await service.createLoraTrainingClient({ baseModel: 'base' });
  const { loss_fn_outputs } = await model.forward([datumOf(1, 2)], 'cross_entropy');
  const nested = TensorData.toNested(loss_fn_outputs[0]!.logprobs!) as number[];
  expect(nested.map((value) => value.toFixed(2))).toEqual(['-1.00', '-2.10']);
});

test('large results are announced, and fetched when there is room for them', async () => {
  const { server, service } = await start({ inlineBytes: 10 });
  const model = await service.createLoraTrainingClient({ baseModel: 'base' });
  await model.forward([datumOf(1, 2)], 'cross_entropy');
  const polls = server.bodiesOf('/retrieve_future').filter(({ request_id }) => request_id === 'S0:train:0:1');
  expect(polls.map(({ allow_metadata_only }) => allow_metadata_only)).toEqual([true, false]);
});

test('a wrong key is an AuthenticationError that names the answer', async () => {
  const { service } = await start({}, { apiKey: 'tml-wrong' });
  await expect(service.createLoraTrainingClient({ baseModel: 'base' })).rejects.toMatchObject({
    name: 'AuthenticationError',
    status: 401,
    body: { detail: 'bad key' },
  });
  expect(
    TinkerError.isInstance(new BadRequestError('', { status: 400, headers: new Headers(), body: '' })),
  ).toBe(true);
});

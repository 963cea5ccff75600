import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { CancelledError, ResultTimeoutError, SamplingClient, TensorData } from '../src/index.ts';
import { logprobOf } from './reference-server.ts';
import { FAST, silent, start } from './setup.ts';

const params = { max_tokens: 3 };

test('a sample: sequences with the promised ids, defaults as the Python SDK sends them', async () => {
  const { server, service } = await start();
  const sampler = await service.createSamplingClient({ baseModel: 'base' });
  const response = await sampler.sample({ prompt: [5, 6, 7, 8], samplingParams: params, numSamples: 2 });
  expect(response.sequences.map(({ sequence_id }) => sequence_id)).toEqual([
    'S0:sample:0:0:0',
    'S0:sample:0:0:1',
  ]);
  expect(response.sequences[0]).toMatchObject({ tokens: [5, 6, 7], stop_reason: 'length' });
  expect(response.sequences[0]?.logprobs?.[1]).toBeCloseTo(logprobOf(6, 1), 4);
  expect(server.bodiesOf('/asample')[0]).toEqual({
    num_samples: 2,
    prompt: { chunks: [{ tokens: [5, 6, 7, 8], type: 'encoded_text' }] },
    sampling_params: { max_tokens: 3, temperature: 1, top_k: -1, top_p: 1 },
    sampling_session_id: 'S0:sample:0',
    seq_id: 0,
    prompt_logprobs: false,
    topk_prompt_logprobs: 0,
    topk_sample_logprobs: 0,
    prompt_alt_tokens_k: 0,
    record_stability_info: false,
    type: 'sample',
  });
  expect(server.callsTo('/asample')[0]?.headers['x-tinker-sampling-backpressure']).toBe('1');
  const poll = server.callsTo('/retrieve_future').at(-1);
  expect(poll?.headers).toMatchObject({
    accept: 'application/x-protobuf',
    'x-tinker-request-type': 'Sample',
  });
});

test('the base model of a checkpoint comes from the server', async () => {
  const { service } = await start();
  const sampler = await service.createSamplingClient({ modelPath: 'tinker://r:train:0/sampler_weights/a' });
  expect(sampler.getBaseModel()).toBe('base of checkpoint');
  expect(() => service.createSamplingClient({})).toThrow('modelPath or baseModel');
  await expect(service.createSamplingClient({ modelPath: '/tmp/weights' })).rejects.toThrow('tinker://');
});

test('computeLogprobs scores the prompt, and nothing at its first token', async () => {
  const { service } = await start();
  const sampler = await service.createSamplingClient({ baseModel: 'base' });
  const [first, second] = await sampler.computeLogprobs([5, 6]);
  expect(first).toBeNull();
  expect(second).toBeCloseTo(logprobOf(6, 1), 4);
});

test('a server that does not do what was asked does not pass unnoticed', async () => {
  const { service } = await start();
  const sampler = await service.createSamplingClient({ baseModel: 'base' });
  const alternatives = sampler.sample({ prompt: [1, 2], samplingParams: params, promptAltTokensK: 2 });
  await expect(alternatives).rejects.toThrow('may not know promptAltTokensK');
  await expect(sampler.computeLogprobs([1, 2, 3], { promptLogprobsLastN: 1 })).rejects.toThrow(
    'promptLogprobsLastN',
  );
});

test('wrong arguments throw at the call and use up no number', async () => {
  const { server, service } = await start();
  const sampler = await service.createSamplingClient({ baseModel: 'base' });
  const sample = { prompt: [1], samplingParams: params };
  expect(() => sampler.sample({ ...sample, samplingParams: { top_p: 2 } })).toThrow('top_p');
  expect(() => sampler.sample({ ...sample, promptLogprobsLastN: 1 })).toThrow('includePromptLogprobs');
  const flat = TensorData.fromArray([1]);
  expect(() => sampler.sample({ ...sample, targetPromptLogprobs: flat })).toThrow('[prompt length - 1, K]');
  await sampler.sample(sample);
  expect([...server.sampled.keys()]).toEqual(['S0:sample:0:0']);
});

test('a lost sample is drawn again under a new number', async () => {
  const { server, service } = await start();
  const sampler = await service.createSamplingClient({
    baseModel: 'base',
    retry: { initialDelayMs: 1, maxDelayMs: 2 },
  });
  server.gone.add('S0:sample:0:0');
  const future = sampler.sample({ prompt: [1], samplingParams: params });
  expect((await future).sequences[0]?.sequence_id).toBe('S0:sample:0:1:0');
  expect(future.requestIds).toEqual(['S0:sample:0:0', 'S0:sample:0:1']);
});

test('without retries a lost sample is an error', async () => {
  const { server, service } = await start();
  const sampler = await service.createSamplingClient({ baseModel: 'base', retry: { enabled: false } });
  server.gone.add('S0:sample:0:0');
  await expect(sampler.sample({ prompt: [1], samplingParams: params })).rejects.toThrow('no longer knows');
});

test('a timed-out or cancelled sample is cancelled on the server, where it wants to know', async () => {
  const { server, service } = await start({
    dynamicConfig: { sample_cancel_enabled: true },
    sampleMs: 60_000,
  });
  const sampler = await service.createSamplingClient({ baseModel: 'base' });
  const sample = { prompt: [1], samplingParams: params };
  const timedOut = sampler.sample(sample);
  await expect(timedOut.result({ timeout: 60 })).rejects.toThrow(ResultTimeoutError);
  await expect(timedOut).rejects.toThrow(ResultTimeoutError);
  const cancelled = sampler.sample(sample);
  while (!cancelled.requestId) await new Promise((resolve) => setTimeout(resolve, 5));
  cancelled.cancel();
  await expect(cancelled).rejects.toThrow(CancelledError);
  const controller = new AbortController();
  const aborted = sampler.sample({ ...sample, signal: controller.signal });
  while (!aborted.requestId) await new Promise((resolve) => setTimeout(resolve, 5));
  controller.abort(new Error('enough'));
  await expect(aborted).rejects.toThrow('enough');
  await expect.poll(() => server.cancelled).toEqual(['S0:sample:0:0', 'S0:sample:0:1', 'S0:sample:0:2']);
});

test('a sample that is cancelled while its request travels is cancelled on the server as soon as it has a name', async () => {
  const { server, service } = await start({
    dynamicConfig: { sample_cancel_enabled: true },
    sampleMs: 60_000,
    promiseMs: 50,
  });
  const sampler = await service.createSamplingClient({ baseModel: 'base' });
  const future = sampler.sample({ prompt: [1], samplingParams: params });
  await expect.poll(() => server.sampled.size).toBe(1);
  future.cancel();
  await expect(future).rejects.toThrow(CancelledError);
  await expect.poll(() => server.cancelled).toEqual(['S0:sample:0:0']);
});

test('a sample that is cancelled before its request is sent is never sent', async () => {
  const { server, service } = await start();
  const sampler = await service.createSamplingClient({ baseModel: 'base' });
  const future = sampler.sample({ prompt: [1], samplingParams: params });
  future.cancel();
  await expect(future).rejects.toThrow(CancelledError);
  await sampler.sample({ prompt: [2], samplingParams: params });
  expect([...server.sampled.keys()]).toEqual(['S0:sample:0:1']);
});

test('one poll serves a whole sampler where the server offers it', async () => {
  const { server, service } = await start({
    clientConfig: { sample_use_retrieve_futures: true },
    sampleMs: 30,
  });
  const sampler = await service.createSamplingClient({ baseModel: 'base' });
  const samples = Array.from({ length: 50 }, (_, index) =>
    sampler.sample({ prompt: [index], samplingParams: params }),
  );
  const responses = await Promise.all(samples);
  expect(responses.map(({ sequences }) => sequences[0]?.tokens)).toEqual(samples.map((_, index) => [index]));
  expect(server.callsTo('/retrieve_future')).toHaveLength(50);
  expect(server.callsTo('/retrieve_futures').length).toBeLessThan(20);
  await expect.poll(() => reported(server.bodiesOf('/retrieve_futures'))).toBe(50);
});

function reported(polls: Record<string, unknown>[]): number {
  return new Set(polls.flatMap(({ retrieved_request_ids: ids }) => ids as string[])).size;
}

test('a handle gives another process a client whose numbers do not collide', async () => {
  const { server, service, baseUrl } = await start({ clientConfig: { sample_join_sampling_session: true } });
  const sampler = await service.createSamplingClient({ baseModel: 'base', recordStabilityInfo: true });
  const handle = sampler.getSamplerHandle();
  expect(Buffer.from(handle, 'base64url').toString()).not.toContain('tml-test');
  const copy = SamplingClient.fromSamplerHandle(handle, {
    apiKey: 'tml-test',
    logger: silent,
    ...FAST.retry,
  });
  await copy.sample({ prompt: [1], samplingParams: params });
  copy.detach();
  expect([...server.sampled.keys()]).toEqual(['S0:sample:0:7000000000']);
  expect(server.bodiesOf('/asample')[0]).toMatchObject({ record_stability_info: true });
  expect(copy.getSamplerHandle()).toBe(handle);
  expect(baseUrl).toBe(JSON.parse(Buffer.from(handle, 'base64url').toString()).holder.base_url);
});

test('without help from the server a clone draws a number beyond 10^9, and sends all its digits', async () => {
  const { server, service } = await start();
  const handle = (await service.createSamplingClient({ baseModel: 'base' })).getSamplerHandle();
  const copy = SamplingClient.fromSamplerHandle(handle, { apiKey: 'tml-test', logger: silent });
  await copy.sample({ prompt: [1], samplingParams: params });
  copy.detach();
  const seqId = /"seq_id":(\d+)/.exec(server.callsTo('/asample')[0]!.body.toString())![1]!;
  expect(BigInt(seqId) % 1_000_000_000n).toBe(0n);
  expect(BigInt(seqId)).toBeGreaterThanOrEqual(1_000_000_000n);
});

test("reads the Python SDK's handles", () => {
  const handle = JSON.parse(
    readFileSync(new URL('../fixtures/sampler_handle.json', import.meta.url), 'utf8'),
  );
  const client = SamplingClient.fromSamplerHandle(handle, { apiKey: 'tml-test' });
  client.detach();
  expect([client.samplerId, client.getBaseModel()]).toEqual(['7c9e:sample:3', 'Qwen/Qwen3-8B']);
  const [theirs, ours] = [handle, client.getSamplerHandle()].map((text: string) =>
    JSON.parse(Buffer.from(text, 'base64url').toString()),
  );
  expect(ours).toEqual({ ...theirs, holder: { ...theirs.holder, default_headers_overrides: {} } });
  expect(() => SamplingClient.fromSamplerHandle('nonsense', { apiKey: 'k' })).toThrow('no sampler handle');
});

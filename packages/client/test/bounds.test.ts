import { expect, test } from 'vitest';
import type { ServiceClientOptions } from '../src/index.ts';
import { datumOf, start } from './setup.ts';

/** Most sockets of so many exchanges at once: one is free again only a moment after its answer was read. */
const socketsOf = (exchanges: number) => 4 + 1.5 * exchanges;
/** Submissions of samples under way at once. */
const SUBMISSIONS = 64;

/** A fetch that knows how many bytes of requests are under way. */
function weighing() {
  const weight = { now: 0, most: 0 };
  const fetch: typeof globalThis.fetch = async (url, init) => {
    const { body } = init as { body?: string | Uint8Array };
    weight.now += body?.length ?? 0;
    weight.most = Math.max(weight.most, weight.now);
    try {
      return await globalThis.fetch(url, init);
    } finally {
      weight.now -= body?.length ?? 0;
    }
  };
  return { weight, fetch };
}

async function twoHundredSamples(options: ServiceClientOptions) {
  const { server, service } = await start({ sampleMs: 300, holdMs: 50 }, options);
  const sampler = await service.createSamplingClient({ baseModel: 'base' });
  const samples = Array.from({ length: 200 }, (_, index) =>
    sampler.sample({ prompt: [index], samplingParams: { max_tokens: 1 } }),
  );
  const tokens = (await Promise.all(samples)).map(({ sequences }) => sequences[0]?.tokens[0]);
  expect(tokens).toEqual(samples.map((_, index) => index));
  return server;
}

test('200 samples at once: a socket for each result that is waited for, and few beside them', async () => {
  const server = await twoHundredSamples({});
  expect(server.peakSockets).toBeLessThanOrEqual(socketsOf(200));
});

test('200 samples at once through few polls: few sockets, all come back', async () => {
  const server = await twoHundredSamples({ maxConcurrentPolls: 16 });
  expect(server.peakPolls).toBeLessThanOrEqual(16);
  expect(server.peakSockets).toBeLessThanOrEqual(socketsOf(16 + SUBMISSIONS));
});

test('fewer samples are under way than the server allows', async () => {
  const { server, service } = await start({
    clientConfig: { sample_max_concurrent_requests: 5 },
    sampleMs: 10,
  });
  const sampler = await service.createSamplingClient({ baseModel: 'base' });
  const samples = Array.from({ length: 40 }, () =>
    sampler.sample({ prompt: [1], samplingParams: { max_tokens: 1 } }),
  );
  await Promise.all(samples);
  expect(server.peakPolls).toBeLessThanOrEqual(5);
  expect(server.peakSockets).toBeLessThanOrEqual(socketsOf(5));
});

test('a batch of 2000 datums: few requests are in memory and under way at once', async () => {
  const budget = 1_000_000;
  const { weight, fetch } = weighing();
  const clientConfig = { fwdbwd_max_chunk_len: 50, fwdbwd_dispatch_bytes_semaphore_size: budget };
  const { server, service } = await start({ clientConfig }, { fetch, maxConcurrentPolls: 8 });
  const model = await service.createLoraTrainingClient({ baseModel: 'base' });
  const tokens = Array.from({ length: 500 }, (_, index) => index);
  const batch = Array.from({ length: 2000 }, () => datumOf(...tokens));
  const output = await model.forwardBackward(batch, 'cross_entropy');
  expect(output.loss_fn_outputs).toHaveLength(2000);
  expect(server.executed).toHaveLength(40);
  const [part] = server.callsTo('/forward_backward');
  expect(server.peakTrainingRequests).toBeGreaterThan(1);
  // The budget lets a part pass as long as some of it is left.
  expect(weight.most).toBeLessThanOrEqual(budget + 1.1 * part!.body.length);
  expect(server.peakSockets).toBeLessThanOrEqual(socketsOf(8 + 3));
});

test('results of a large batch are fetched when there is room for them', async () => {
  const limit = 500_000;
  const held = { now: 0, most: 0 };
  const clientConfig = { fwdbwd_max_chunk_len: 50, inflight_response_bytes_semaphore_size: limit };
  const fetch: typeof globalThis.fetch = async (url, init) => {
    const answer = await globalThis.fetch(url, init);
    if (!answer.headers.get('content-type')?.includes('protobuf')) return answer;
    const bytes = await answer.arrayBuffer();
    held.now += bytes.byteLength;
    held.most = Math.max(held.most, held.now);
    // A slow network: the other results would be here too, were they asked for.
    await new Promise((resolve) => setTimeout(resolve, 300));
    held.now -= bytes.byteLength;
    return new Response(bytes, answer);
  };
  const { service } = await start({ clientConfig, inlineBytes: 1000 }, { fetch });
  const model = await service.createLoraTrainingClient({ baseModel: 'base' });
  const tokens = Array.from({ length: 500 }, (_, index) => index);
  const { loss_fn_outputs } = await model.forward(Array(2000).fill(datumOf(...tokens)), 'cross_entropy');
  expect(loss_fn_outputs).toHaveLength(2000);
  // Whoever finds room enters, so one result of 100 kB may exceed the limit.
  expect(held.most).toBeLessThanOrEqual(limit + 110_000);
  expect(held.most).toBeGreaterThan(limit / 2);
});

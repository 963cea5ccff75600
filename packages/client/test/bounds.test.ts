import { expect, test } from 'vitest';
import { datumOf, start } from './setup.ts';

test('200 samples at once: polls are bounded, all come back', async () => {
  const { server, service } = await start({ sampleMs: 100, holdMs: 20 }, { maxConcurrentPolls: 16 });
  const sampler = await service.createSamplingClient({ baseModel: 'base' });
  const samples = Array.from({ length: 200 }, (_, index) =>
    sampler.sample({ prompt: [index], samplingParams: { max_tokens: 1 } }),
  );
  const tokens = (await Promise.all(samples)).map(({ sequences }) => sequences[0]?.tokens[0]);
  expect(tokens).toEqual(samples.map((_, index) => index));
  expect(server.peakPolls).toBeLessThanOrEqual(16);
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
});

test('a batch of 2000 datums: few bodies are in memory and under way at once', async () => {
  const { server, service } = await start({
    clientConfig: { fwdbwd_max_chunk_len: 50, fwdbwd_dispatch_bytes_semaphore_size: 1_000_000 },
  });
  const model = await service.createLoraTrainingClient({ baseModel: 'base' });
  const tokens = Array.from({ length: 500 }, (_, index) => index);
  const batch = Array.from({ length: 2000 }, () => datumOf(...tokens));
  const output = await model.forwardBackward(batch, 'cross_entropy');
  expect(output.loss_fn_outputs).toHaveLength(2000);
  expect(server.executed).toHaveLength(40);
  // A part is about 800 kB: the budget of 1 MB lets two of them go at once.
  expect(server.peakSockets).toBeLessThanOrEqual(45);
  expect(server.peakTrainingRequests).toBeLessThanOrEqual(3);
});

import { expect, onTestFinished, test } from 'vitest';
import { ServiceClient } from '../src/index.ts';
import { FaultProxy } from './fault-proxy.ts';
import { ReferenceServer } from './reference-server.ts';
import { datumOf, silent } from './setup.ts';

/** A client whose traffic passes through the proxy. */
async function throughFaults(rate: number, seed: number) {
  const server = new ReferenceServer({ clientConfig: { fwdbwd_max_chunk_len: 3 } });
  const proxy = new FaultProxy(await server.listen(), rate, seed);
  const baseUrl = await proxy.listen();
  onTestFinished(async () => {
    await proxy.close();
    await server.close();
  });
  const retry = { initialDelayMs: 1, maxDelayMs: 10, maxElapsedMs: 50_000 };
  const service = new ServiceClient({ baseUrl, apiKey: 'tml-test', logger: silent, retry });
  return { server, proxy, service };
}

const SAMPLES = 400;
const STEPS = 200;

test('1000 calls through a network that errs, cuts, repeats and delays: none lost, none run twice, order kept', async () => {
  const { server, proxy, service } = await throughFaults(0.3, 20);
  const model = await service.createLoraTrainingClient({ baseModel: 'base' });
  const sampler = await service.createSamplingClient({
    baseModel: 'base',
    retry: { initialDelayMs: 1, maxDelayMs: 10 },
  });
  // Every tenth batch is split in two, so there are more requests than calls.
  const batch = (step: number) => Array.from({ length: step % 10 === 0 ? 4 : 1 }, () => datumOf(step + 1));
  const passes = [];
  const steps = [];
  const saves = [];
  for (let step = 0; step < STEPS; step++) {
    passes.push(model.forwardBackward(batch(step), 'cross_entropy'));
    steps.push(model.optimStep({ learning_rate: 0.1 }));
    saves.push(model.saveState(`step-${step}`));
  }
  const samples = Array.from({ length: SAMPLES }, (_, index) =>
    sampler.sample({ prompt: [index, index], samplingParams: { max_tokens: 1 } }),
  );

  const results = await Promise.all(passes);
  expect(results.map(({ loss_fn_outputs }) => loss_fn_outputs.length)).toEqual(
    passes.map((_, step) => batch(step).length),
  );
  expect(results.map(({ metrics }) => Math.round(metrics['loss:sum']! * 10) / 10)).toEqual(
    passes.map((_, step) => batch(step).length * (step + 1)),
  );
  // Each step saw exactly the gradients of the pass before it.
  expect((await Promise.all(steps)).map(({ metrics }) => metrics?.gradient)).toEqual(
    passes.map((_, step) => batch(step).length),
  );
  expect((await Promise.all(saves)).map(({ path }) => path)).toEqual(
    saves.map((_, step) => `tinker://S0:train:0/weights/step-${step}`),
  );
  const drawn = await Promise.all(samples);
  expect(drawn.map(({ sequences }) => sequences[0]?.tokens)).toEqual(samples.map((_, index) => [index]));

  expect(server.executed.map(({ seqId }) => seqId)).toEqual(server.executed.map((_, index) => index + 1));
  expect(server.executed).toHaveLength(3 * STEPS + STEPS / 10);
  expect([...server.sampled.values()].every((times) => times === 1)).toBe(true);
  expect(server.sampled.size).toBe(SAMPLES);
  expect(proxy.counts.size).toBe(11);
}, 300_000);

test.each([1, 2, 3])('training stays in order through other mishaps (seed %i)', async (seed) => {
  const { server, service } = await throughFaults(0.5, seed);
  const model = await service.createLoraTrainingClient({ baseModel: 'base' });
  const calls = Array.from({ length: 30 }, (_, step) => [
    model.forwardBackward([datumOf(step)], 'cross_entropy'),
    model.optimStep(),
  ]).flat();
  await Promise.all(calls);
  expect(server.executed.map(({ what }) => what)).toEqual(
    calls.map((_, index) => (index % 2 === 0 ? 'forward_backward:1' : 'optim_step')),
  );
});

test('answers that never come are given up when the time is over', async () => {
  const { proxy, service } = await throughFaults(0, 1);
  await service.createLoraTrainingClient({ baseModel: 'base' });
  const address = await (async () => {
    const dead = new ReferenceServer();
    const url = await dead.listen();
    await dead.close();
    return url;
  })();
  const retry = { initialDelayMs: 1, maxDelayMs: 5, maxElapsedMs: 50 };
  const lost = new ServiceClient({ baseUrl: address, apiKey: 'tml-test', logger: silent, retry });
  await expect(lost.createLoraTrainingClient({ baseModel: 'base' })).rejects.toMatchObject({
    name: 'APIConnectionError',
  });
  expect(proxy.counts.get('none')).toBeGreaterThan(0);
});

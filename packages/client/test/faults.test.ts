import { expect, onTestFinished, test } from 'vitest';
import { ServiceClient } from '../src/index.ts';
import { FAULTS, FaultProxy } from './fault-proxy.ts';
import { type ReferenceOptions, ReferenceServer } from './reference-server.ts';
import { datumOf, silent } from './setup.ts';

/** A client whose traffic passes through the proxy. */
async function throughFaults(rate: number, seed: number, options: ReferenceOptions = {}) {
  const clientConfig = { fwdbwd_max_chunk_len: 3, ...options.clientConfig };
  const server = new ReferenceServer({ ...options, clientConfig });
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

/** Every tenth batch is split in two, so there are more requests than calls. */
const batchOf = (step: number) => Array.from({ length: step % 10 === 0 ? 4 : 1 }, () => datumOf(step + 1));

/** All calls at once: `steps` times a pass, an update and a save, and `samples`. What came back, and what the server did. */
async function manyCalls(
  { service, server }: Awaited<ReturnType<typeof throughFaults>>,
  steps: number,
  samples: number,
) {
  const model = await service.createLoraTrainingClient({ baseModel: 'base' });
  const retry = { initialDelayMs: 1, maxDelayMs: 10 };
  const sampler = await service.createSamplingClient({ baseModel: 'base', retry });
  const trained = Array.from({ length: steps }, (_, step) => ({
    pass: model.forwardBackward(batchOf(step), 'cross_entropy'),
    update: model.optimStep({ learning_rate: 0.1 }),
    save: model.saveState(`step-${step}`),
  }));
  const drawn = Array.from({ length: samples }, (_, index) =>
    sampler.sample({ prompt: [index, index], samplingParams: { max_tokens: 1 } }),
  );
  const passes = await Promise.all(trained.map(({ pass }) => pass));
  const updates = await Promise.all(trained.map(({ update }) => update));
  const saves = await Promise.all(trained.map(({ save }) => save));
  const sampled = await Promise.all(drawn);
  return {
    outputs: passes.map(({ loss_fn_outputs }) => loss_fn_outputs.length),
    losses: passes.map(({ metrics }) => Math.round(metrics['loss:sum']! * 10) / 10),
    gradients: updates.map(({ metrics }) => metrics?.gradient),
    paths: saves.map(({ path }) => path),
    tokens: sampled.map(({ sequences }) => sequences[0]?.tokens),
    executed: server.executed.map(({ seqId, what }) => `${seqId} ${what}`),
    prompts: new Set([...server.sampled.values()].map(([first]) => first)).size,
    collisions: server.collisions,
  };
}

/** What must come of that, whatever happens on the way. */
function whatMustBe(steps: number, samples: number): Awaited<ReturnType<typeof manyCalls>> {
  const all = Array.from({ length: steps }, (_, step) => step);
  const requests = all.flatMap((step) => {
    const passes =
      batchOf(step).length === 4 ? ['forward_backward:3', 'forward_backward:1'] : ['forward_backward:1'];
    return [...passes, 'optim_step', 'save_weights'];
  });
  return {
    outputs: all.map((step) => batchOf(step).length),
    losses: all.map((step) => batchOf(step).length * (step + 1)),
    // Each update saw exactly the gradients of the pass before it.
    gradients: all.map((step) => batchOf(step).length),
    paths: all.map((step) => `tinker://S0:train:0/weights/step-${step}`),
    tokens: Array.from({ length: samples }, (_, index) => [index]),
    executed: requests.map((what, index) => `${index + 1} ${what}`),
    prompts: samples,
    collisions: [],
  };
}

test('1000 calls through a network that errs, cuts, repeats, reorders and delays: none lost, none run twice, order kept', async () => {
  const [steps, samples] = [200, 400];
  const net = await throughFaults(0.3, 20);
  expect(await manyCalls(net, steps, samples)).toEqual(whatMustBe(steps, samples));
  // A sample is drawn again where the server has lost it, and nowhere else.
  expect(net.server.sampled.size).toBe(samples + net.proxy.counts.get('gone')!);
  expect([...net.proxy.counts.keys()].sort()).toEqual(['none', ...FAULTS].sort());
}, 300_000);

test('the same with one poll for all samples', async () => {
  const clientConfig = { sample_use_retrieve_futures: true };
  const net = await throughFaults(0.3, 21, { clientConfig });
  expect(await manyCalls(net, 10, 60)).toEqual(whatMustBe(10, 60));
  expect(net.server.sampled.size).toBe(60 + (net.proxy.counts.get('gone') ?? 0));
}, 300_000);

test('these tests notice a request that runs twice', async () => {
  const net = await throughFaults(0.3, 20, { forgetful: true });
  const { executed, ...rest } = await manyCalls(net, 20, 0);
  expect(executed.length).toBeGreaterThan(whatMustBe(20, 0).executed.length);
  expect({ executed, ...rest }).not.toEqual(whatMustBe(20, 0));
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

import { expect, test } from 'vitest';
import { ApiError } from '../src/index.ts';
import { Sequencer } from '../src/services/sequencer.ts';
import { onEachDatabase } from './harness.ts';

function recorder() {
  const started: bigint[] = [];
  const abandoned: [bigint, string][] = [];
  const job = (seq: bigint, options: { barrier?: boolean; done?: Promise<void> } = {}) => ({
    seq,
    barrier: options.barrier ?? false,
    start: () => {
      started.push(seq);
      return { done: options.done ?? Promise.resolve() };
    },
    abandon: (error: ApiError) => void abandoned.push([seq, error.message]),
  });
  return { started, abandoned, job };
}

const fresh = { lastSeq: 0n, numbers: [] };

test('jobs start by number and do not wait for results', async () => {
  const { started, job } = recorder();
  const sequencer = new Sequencer('m', fresh, 60_000);
  const never = new Promise<void>(() => {});
  for (const seq of [3n, 2n]) sequencer.add(job(seq, { done: never }));
  expect(started).toEqual([]);
  sequencer.add(job(1n, { done: never }));
  await new Promise(setImmediate);
  expect(started).toEqual([1n, 2n, 3n]);
});

test('a barrier waits for the end of everything before it', async () => {
  const { started, job } = recorder();
  const sequencer = new Sequencer('m', fresh, 60_000);
  let end = (): void => {};
  const running = new Promise<void>((resolve) => {
    end = resolve;
  });
  sequencer.add(job(1n, { done: running }));
  sequencer.add(job(2n, { barrier: true }));
  sequencer.add(job(3n));
  await new Promise(setImmediate);
  expect(started).toEqual([1n]);
  end();
  await sequencer.settled();
  expect(started).toEqual([1n, 2n, 3n]);
});

test('a skipped number is not waited for', async () => {
  const { started, job } = recorder();
  const sequencer = new Sequencer('m', fresh, 60_000);
  sequencer.add(job(2n));
  sequencer.skip(1n);
  await sequencer.settled();
  expect(started).toEqual([2n]);
  expect(sequencer.isIdle).toBe(true);
});

test('after a restart the order goes on where it was, and a hole is still waited for', async () => {
  const { started, job } = recorder();
  const sequencer = new Sequencer('m', { lastSeq: 9n, numbers: [9n, 6n, 5n, 7n] }, 60_000);
  expect(sequencer.next).toBe(8n);
  expect(sequencer.free()).toBe(8n);
  sequencer.add(job(10n));
  sequencer.add(job(8n));
  await sequencer.settled();
  expect(started).toEqual([8n, 10n]);
  expect(new Sequencer('m', { lastSeq: 9n, numbers: [] }, 60_000).next).toBe(10n);
});

test('what waits for a missing number ends when the gap lasts, and the order goes on after it', async () => {
  const { started, abandoned, job } = recorder();
  const sequencer = new Sequencer('m', fresh, 20);
  sequencer.add(job(3n));
  sequencer.add(job(2n));
  await expect.poll(() => abandoned.map(([seq]) => seq)).toEqual([2n, 3n]);
  expect(abandoned[0]?.[1]).toContain('Request 1 of m did not arrive');
  sequencer.add(job(4n));
  await sequencer.settled();
  expect(started).toEqual([4n]);
  sequencer.add(job(1n));
  expect(abandoned.at(-1)?.[1]).toContain('Request 1 of m came after its turn');
});

test('an abandoned order ends what waits and keeps its numbers used', async () => {
  const { abandoned, job } = recorder();
  const sequencer = new Sequencer('m', fresh, 60_000);
  sequencer.add(job(2n));
  sequencer.abandon(new ApiError('session_ended', 'over'));
  expect(abandoned).toEqual([[2n, 'over']]);
});

onEachDatabase((open) => {
  test('requests in flight leave the engine no idle gap', async () => {
    const server = await open();
    const model = await server.model();
    let release = (): void => {};
    server.engine.gate = new Promise((resolve) => {
      release = resolve;
    });
    const promises = [];
    for (let seq = 1; seq <= 6; seq += 1) {
      promises.push(await (seq % 2 ? server.forwardBackward(model, seq) : server.optimStep(model, seq)));
    }
    await expect.poll(() => server.engine.received).toBe(7);
    release();
    for (const promise of promises) expect((await server.result(promise)).status).toBe(200);
  });

  test('a failed request does not stop later ones', async () => {
    const server = await open();
    const model = await server.model();
    const bad = await server.forwardBackward(model, 1, { lossFn: 'ppo' });
    const step = await server.optimStep(model, 2);
    expect((await server.result(bad)).json.category).toBe('user');
    expect((await server.result(step)).json.type).toBe('optim_step');
  });

  test('a number that never comes fails what waits for it, as the server’s category', async () => {
    const server = await open({ config: { gapSeconds: 1, pollSeconds: 5 } });
    const model = await server.model();
    const waiting = await server.optimStep(model, 2);
    const { json } = await server.result(waiting);
    expect(json).toMatchObject({ category: 'server', error: expect.stringContaining('Request 1') });
  });

  test('the end of a session fails what waits, frees its models and refuses new work', async () => {
    const server = await open();
    const session = await server.session();
    const model = await server.model({ session });
    const waiting = await server.optimStep(model, 2);
    await server.post(`/sessions/${session}/finish`, { reason: { type: 'interrupted' }, detail: 'ctrl-c' });
    expect((await server.result(waiting)).json).toMatchObject({ error: expect.stringContaining('ended') });
    await expect.poll(() => server.engine.models.size).toBe(0);
    expect((await server.optimStep(model, 3)).status).toBe(403);
    expect((await server.post('/session_heartbeat', { session_id: session })).status).toBe(410);
    const create = { session_id: session, model_seq_id: 1, base_model: 'tiny' };
    expect((await server.post('/create_model', create)).status).toBe(403);
  });

  test('models do not wait for each other', async () => {
    const server = await open();
    const [stuck, free] = [await server.model(), await server.model()];
    await server.optimStep(stuck, 2);
    expect((await server.result(await server.optimStep(free, 1))).json.type).toBe('optim_step');
  });

  test('an unloaded model takes no more requests, and its checkpoints stay', async () => {
    const server = await open();
    const model = await server.model();
    const path = await server.saveState(model, 1, 'kept');
    const unloaded = await server.result(await server.post('/unload_model', { model_id: model }));
    expect(unloaded.json).toEqual({ type: 'unload_model', model_id: model });
    expect(server.engine.models.size).toBe(0);
    expect((await server.result(await server.optimStep(model, 2))).json.error).toContain('unloaded');
    const load = { session_id: await server.session(), model_seq_id: 0, path, optimizer: true };
    expect((await server.result(await server.post('/load_weights', load))).json.path).toBe(path);
  });

  test('a load into a live model waits for the save before it, and resets the optimizer unless asked', async () => {
    const server = await open();
    const model = await server.model();
    await server.forwardBackward(model, 1);
    await server.optimStep(model, 2);
    const before = await server.loss(model, 3);
    const save = server.post('/save_weights', { model_id: model, seq_id: 4, path: 'here' });
    const path = `tinker://${model}/weights/here`;
    await server.forwardBackward(model, 5);
    await server.optimStep(model, 6);
    const load = { model_id: model, seq_id: 7, path, optimizer: true };
    const loaded = await server.post('/load_weights', load);
    await save;
    expect((await server.result(loaded)).json).toMatchObject({ path });
    expect(await server.loss(model, 8)).toBe(before);
    const sampler = { ...load, seq_id: 9, path: path.replace('/weights/', '/sampler_weights/') };
    expect((await server.result(await server.post('/load_weights', sampler))).json.category).toBe('user');
  });
});

import { expect, test } from 'vitest';
import { ServerConfig } from '../src/index.ts';
import { sweep } from '../src/sweeper.ts';
import { FakeEngine } from './fake-engine.ts';
import { closeServer, onEachDatabase } from './harness.ts';

onEachDatabase((open) => {
  test('runs, checkpoints, keys, samplers and results outlive the process', async () => {
    const before = await open();
    const model = await before.model({ request: { user_metadata: { renderer_name: 'role_colon' } } });
    const path = await before.saveState(model, 1, 'kept');
    const save = { model_id: model, seq_id: 2, sampling_session_seq_id: 0 };
    const { json } = await before.result(await before.post('/save_weights_for_sampler', save));
    const result = await before.forwardBackward(model, 3, { forwardOnly: true });
    const numbers = (await before.result(result)).json;
    await closeServer(before, 'crash');

    const after = await open({ like: before });
    const run = (await after.get(`/training_runs/${model}`)).json;
    expect(run).toMatchObject({
      user_metadata: { renderer_name: 'role_colon' },
      last_checkpoint: { tinker_path: path },
    });
    expect((await after.result(result)).json).toEqual(numbers);
    const sample = await after.sample(String(json.sampling_session_id), 0);
    expect((await after.result(sample)).json.sequences).toHaveLength(1);
  });

  test('a clean restart between two steps goes unnoticed', async () => {
    const before = await open();
    const model = await before.model();
    for (const seq of [1, 3]) {
      await before.forwardBackward(model, seq);
      await before.result(await before.optimStep(model, seq + 1));
    }
    const loss = await before.loss(model, 5);
    await closeServer(before);

    const after = await open({ like: before });
    expect(await after.loss(model, 6)).toBe(loss);
    await after.forwardBackward(model, 7);
    await after.result(await after.optimStep(model, 8));
    expect(await after.loss(model, 9)).not.toBe(loss);
    expect(after.engine.models.get(model)?.step).toBe(3);
  });

  test('with every step stored, a crash between two steps goes unnoticed', async () => {
    const before = await open({ config: { journalSeconds: 0 } });
    const model = await before.model();
    await before.forwardBackward(model, 1);
    await before.result(await before.optimStep(model, 2));
    const loss = await before.loss(model, 3);
    await expect.poll(async () => (await before.store.runs.get(model))?.snapshot?.step).toBe(1);
    await closeServer(before, 'crash');

    const after = await open({ like: before });
    expect(await after.loss(model, 4)).toBe(loss);
  });

  test('with every step stored, steps in flight are stored one after the other', async () => {
    const server = await open({ config: { journalSeconds: 0 } });
    const model = await server.model();
    const promises = [];
    for (let seq = 1; seq <= 6; seq += 2) {
      await server.forwardBackward(model, seq);
      promises.push(await server.optimStep(model, seq + 1));
    }
    for (const promise of promises) await server.result(promise);
    await expect
      .poll(async () => (await server.store.runs.get(model))?.snapshot)
      .toMatchObject({ step: 3, seq: 6n });
  });

  test('the last steps of a pause are stored too', async () => {
    const server = await open({ config: { journalSeconds: 1 } });
    const model = await server.model();
    for (const seq of [1, 3]) {
      await server.forwardBackward(model, seq);
      await server.result(await server.optimStep(model, seq + 1));
    }
    const stored = async () => {
      await server.app.services.live.storeIdle();
      return (await server.store.runs.get(model))?.snapshot?.step;
    };
    await expect.poll(stored, { timeout: 10_000 }).toBe(2);
  });

  test('lost steps are told, and the surviving one can be resumed from', async () => {
    const before = await open({ config: { journalSeconds: 0 } });
    const model = await before.model();
    await before.forwardBackward(model, 1);
    await before.result(await before.optimStep(model, 2));
    const loss = await before.loss(model, 3);
    await expect.poll(async () => (await before.store.runs.get(model))?.snapshot?.step).toBe(1);
    await before.result(await before.forwardBackward(model, 4));
    await closeServer(before, 'crash');

    const after = await open({ like: before });
    const lost = (await after.result(await after.optimStep(model, 5))).json;
    const path = `tinker://${model}/weights/recovered-step-1`;
    expect(lost).toMatchObject({ category: 'server', error: expect.stringContaining(path) });
    expect(lost.error).toContain('requests up to 4');
    const session = await after.session();
    const load = { session_id: session, model_seq_id: 0, path, optimizer: true };
    const resumed = await after.result(await after.post('/load_weights', load));
    expect(await after.loss(String(resumed.json.model_id), 1)).toBe(loss);
    const into = { model_id: model, seq_id: 6, path, optimizer: true };
    expect((await after.result(await after.post('/load_weights', into))).json.path).toBe(path);
    expect(await after.loss(model, 7)).toBe(loss);
  });

  test('without any stored step the error says so', async () => {
    const before = await open();
    const model = await before.model();
    await before.forwardBackward(model, 1);
    await before.result(await before.optimStep(model, 2));
    await closeServer(before, 'crash');
    const after = await open({ like: before });
    const lost = (await after.result(await after.optimStep(model, 3))).json;
    expect(lost).toMatchObject({ category: 'server', error: expect.stringContaining('no step') });
  });

  test('a model that was only created, or loaded, comes back as it was', async () => {
    const before = await open();
    const model = await before.model({ request: { lora_config: { rank: 4 } } });
    await before.forwardBackward(model, 1);
    await before.optimStep(model, 2);
    const path = await before.saveState(model, 3, 'a');
    const load = { session_id: await before.session(), model_seq_id: 0, path, optimizer: true };
    const loaded = String((await before.result(await before.post('/load_weights', load))).json.model_id);
    const loss = await before.loss(loaded, 1);
    const fresh = await before.model({ request: { lora_config: { rank: 4 } } });
    const seed = before.engine.models.get(fresh)?.lora.seed;
    await closeServer(before, 'crash');

    const after = await open({ like: before });
    expect(await after.loss(loaded, 2)).toBe(loss);
    await after.loss(fresh, 1);
    expect(after.engine.models.get(fresh)?.lora.seed).toBe(seed);
  });

  test('what had not ended ends honestly: training fails, samples may be sent again', async () => {
    const before = await open();
    const model = await before.model();
    const sampler = await before.sampler();
    before.engine.gate = new Promise(() => {});
    before.engine.sampleGate = new Promise(() => {});
    const pass = await before.forwardBackward(model, 1);
    const sample = await before.sample(sampler, 0);
    await before.app.http.close();
    await before.store.close();

    const after = await open({ like: before });
    expect((await after.result(pass)).json).toMatchObject({ category: 'server' });
    expect((await after.result(sample)).status).toBe(410);
    expect((await after.result(await after.forwardBackward(model, 2))).status).toBe(200);
    expect((await after.result(await after.sample(sampler, 1))).status).toBe(200);
  });

  test('a shutdown lets running samples end, and those that take too long are sent again', async () => {
    const before = await open();
    const sampler = await before.sampler();
    let release = (): void => {};
    before.engine.sampleGate = new Promise((resolve) => {
      release = resolve;
    });
    const short = await before.sample(sampler, 0);
    setTimeout(release, 100);
    await before.app.services.sampling.close(10_000);
    expect((await before.result(short)).json.sequences).toHaveLength(1);
    before.engine.sampleGate = new Promise(() => {});
    const long = await before.sample(sampler, 1);
    await closeServer(before);
    const after = await open({ like: before });
    expect((await after.result(long)).status).toBe(410);
  });

  test('a model whose client is silent is stored and freed, and comes back when it is used', async () => {
    const server = await open();
    const model = await server.model();
    await server.forwardBackward(model, 1);
    await server.result(await server.optimStep(model, 2));
    const loss = await server.loss(model, 3);
    await server.app.services.live.park(model);
    expect(server.engine.models.size).toBe(0);
    expect(await server.loss(model, 4)).toBe(loss);
    await server.forwardBackward(model, 5);
    await server.result(await server.optimStep(model, 6));
    expect(server.engine.models.get(model)?.step).toBe(2);
  });

  test('the clean-up frees what belongs to silent clients, and leaves the others alone', async () => {
    const server = await open();
    const { services } = server.app;
    const config = ServerConfig.parse({ models: [{ name: 'tiny', folder: '/models/tiny' }] });
    const hour = 3_600_000;
    const [quiet, alive] = [await server.session(), await server.session()];
    const model = await server.model({ session: quiet });
    const kept = await server.model({ session: alive });
    server.engine.sampleGate = new Promise(() => {});
    const sample = await server.sample(await server.sampler({ session: quiet }), 0);
    await server.store.sessions.heartbeat(alive, Date.now() + hour);
    await sweep(services, server.store, config, Date.now());
    expect([...server.engine.models.keys()].sort()).toEqual([model, kept].sort());
    await sweep(services, server.store, config, Date.now() + hour);
    expect([...server.engine.models.keys()]).toEqual([kept]);
    expect((await server.result(sample)).json.error).toContain('cancelled');
  });

  test('an unused model gives up its stored copy in the end', async () => {
    const server = await open();
    const model = await server.model();
    await server.forwardBackward(model, 1);
    await server.result(await server.optimStep(model, 2));
    await server.app.services.live.park(model);
    const run = (await server.store.runs.get(model))!;
    await server.app.services.live.forgetSnapshot(run);
    await expect(server.store.blobs.local(run.snapshot!.blob)).rejects.toThrow();
    expect((await server.result(await server.optimStep(model, 3))).json.category).toBe('user');
  });

  test('a session keeps the weights of its most recently used unnamed samplers', async () => {
    const server = await open({ config: { samplersPerSession: 2 } });
    const session = await server.session();
    const model = await server.model({ session });
    const named = { model_id: model, seq_id: 1, path: 'named' };
    const { json } = await server.result(await server.post('/save_weights_for_sampler', named));
    const kept = await server.sampler({ session, seq: 9, path: String(json.path) });
    for (let i = 0; i < 3; i += 1) {
      const save = { model_id: model, seq_id: i + 2, sampling_session_seq_id: i };
      await server.result(await server.post('/save_weights_for_sampler', save));
      if (i === 1) await server.result(await server.sample(`${session}:sample:0`, 0));
    }
    const status = async (id: string) => (await server.sample(id, 1)).status;
    expect(await status(`${session}:sample:1`)).toBe(404);
    for (const id of [`${session}:sample:0`, `${session}:sample:2`, kept]) expect(await status(id)).toBe(200);
  });

  test('samplers beyond the limit are closed and opened again when they are used', async () => {
    const server = await open({ config: { maxOpenSamplers: 2 }, engine: new FakeEngine() });
    const session = await server.session();
    const model = await server.model({ session });
    const ids: string[] = [];
    for (let i = 0; i < 4; i += 1) {
      const save = { model_id: model, seq_id: i + 1, sampling_session_seq_id: i };
      const { json } = await server.result(await server.post('/save_weights_for_sampler', save));
      ids.push(String(json.sampling_session_id));
    }
    expect(server.engine.samplers.size).toBeLessThanOrEqual(2);
    for (const id of ids) expect((await server.result(await server.sample(id, 0))).status).toBe(200);
    expect(server.engine.samplers.size).toBeLessThanOrEqual(2);
  });
});

import { expect, test } from 'vitest';
import { onEachDatabase } from './harness.ts';

onEachDatabase((open) => {
  test('a missing, wrong or revoked key is 401 with a JSON body', async () => {
    const server = await open();
    for (const key of ['', 'tml-wrong']) {
      const answer = await server.get('/get_server_capabilities', { key });
      expect(answer.status).toBe(401);
      expect(answer.json.detail).toEqual(expect.any(String));
    }
    expect((await server.get('/healthz', { key: '' })).json).toEqual({ status: 'ok' });
    expect((await server.call('DELETE', '/auth/apikey/me')).status).toBe(204);
    const [key] = (await server.store.keys.list()).filter(({ owner }) => owner === 'ada');
    expect(key?.revokedAt).not.toBeNull();
  });

  test('the presented key is described as the CLI reads it', async () => {
    const server = await open();
    const { json } = await server.get('/auth/apikey/me');
    expect(json).toMatchObject({ name: 'test', details: { user_details: { email: 'ada' } } });
    expect(Number.isSafeInteger(json.key_id)).toBe(true);
  });

  test('a key in an Authorization header counts too', async () => {
    const server = await open();
    const headers = { authorization: `Bearer ${server.key}` };
    expect((await server.get('/training_runs', { key: '', headers })).status).toBe(200);
  });

  test('everything of one owner is unknown to another', async () => {
    const server = await open();
    const session = await server.session();
    const model = await server.model({ session });
    const path = await server.saveState(model, 1, 'mine');
    const sampler = await server.sampler({ session });
    const promise = await server.sample(sampler, 0);
    await server.result(promise);
    const key = server.otherKey;
    const probes = [
      server.get(`/training_runs/${model}`, { key }),
      server.get(`/training_runs/${model}?access_scope=accessible`, { key }),
      server.get(`/training_runs/${model}/checkpoints`, { key }),
      server.get(`/sessions/${session}`, { key }),
      server.get(`/samplers/${sampler}`, { key }),
      server.get(`/training_runs/${model}/checkpoints/weights/mine/archive`, { key }),
      server.post('/weights_info', { tinker_path: path }, { key }),
      server.post('/get_info', { model_id: model }, { key }),
      server.post('/unload_model', { model_id: model }, { key }),
      server.post('/retrieve_future', { request_id: promise.json.request_id }, { key }),
      server.post('/session_heartbeat', { session_id: session }, { key }),
      server.post('/join_sampling_session', { sampling_session_id: sampler }, { key }),
      server.post(`/sessions/${session}/finish`, { reason: { type: 'success' } }, { key }),
      server.call('PUT', `/sessions/${session}/project`, { project_id: 'p' }, { key }),
      server.optimStep(model, 2, 0.1, { key }),
      server.sample(sampler, 1, {}, { key }),
      server.post('/create_model', { session_id: session, model_seq_id: 1, base_model: 'tiny' }, { key }),
      server.post(
        '/create_sampling_session',
        { session_id: await server.session(key), sampling_session_seq_id: 0, model_path: path },
        { key },
      ),
    ];
    const statuses = (await Promise.all(probes)).map((answer) => answer.status);
    expect(new Set(statuses)).toEqual(new Set([404]));
    expect((await server.get('/training_runs', { key })).json.training_runs).toEqual([]);
    expect((await server.get('/checkpoints', { key })).json.checkpoints).toEqual([]);
    expect((await server.result(await server.optimStep(model, 2))).json.type).toBe('optim_step');
  });

  test('beyond the rate limit the answer is 429 with a time to wait', async () => {
    const server = await open({ config: { rateLimitPerMinute: 3 } });
    for (let i = 0; i < 3; i += 1) expect((await server.get('/training_runs')).status).toBe(200);
    const refused = await server.get('/training_runs');
    expect(refused.status).toBe(429);
    expect(Number(refused.headers['retry-after'])).toBeGreaterThan(0);
    expect(refused.json.detail).toContain('3 requests');
    expect((await server.get('/training_runs', { key: server.otherKey })).status).toBe(200);
    expect((await server.get('/healthz')).status).toBe(200);
  });

  test('beyond the limit of models the next one is refused until another ends', async () => {
    const server = await open({ config: { maxModelsPerOwner: 1 } });
    const session = await server.session();
    const model = await server.model({ session });
    const create = (seq: number) =>
      server.post('/create_model', { session_id: session, model_seq_id: seq, base_model: 'tiny' });
    expect((await server.result(await create(1))).json).toMatchObject({
      category: 'user',
      error: expect.stringContaining('1 models'),
    });
    expect(await server.model({ key: server.otherKey })).toBeDefined();
    await server.result(await server.post('/unload_model', { model_id: model }));
    expect((await server.result(await create(2))).json.model_id).toBe(`${session}:train:2`);
  });

  test('too many samples under way are pushed back with 429', async () => {
    const server = await open({ config: { maxPendingSamples: 2 } });
    const sampler = await server.sampler();
    server.engine.sampleGate = new Promise(() => {});
    for (const seq of [0, 1]) expect((await server.sample(sampler, seq)).status).toBe(200);
    const pushed = await server.sample(sampler, 2);
    expect([pushed.status, pushed.headers['retry-after']]).toEqual([429, '1']);
  });
});

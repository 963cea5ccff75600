import { appendFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Decrypter, generateIdentity, identityToRecipient } from 'age-encryption';
import { expect, test } from 'vitest';
import { onEachDatabase, type TestServer } from './harness.ts';

async function trained(server: TestServer): Promise<{ model: string; path: string }> {
  const model = await server.model();
  await server.forwardBackward(model, 1);
  await server.optimStep(model, 2);
  return { model, path: await server.saveState(model, 3, 'state', { user_metadata: { step: '1' } }) };
}

const own = (path: string) => {
  const [run, kind, name] = path.slice('tinker://'.length).split('/');
  return `/training_runs/${run}/checkpoints/${kind}/${name}`;
};

onEachDatabase((open) => {
  test('a saved checkpoint is listed with size, time, metadata and expiry', async () => {
    const server = await open();
    const { model, path } = await trained(server);
    await server.saveState(model, 4, 'short', { ttl_seconds: 3600 });
    const { checkpoints } = (await server.get(`/training_runs/${model}/checkpoints`)).json as {
      checkpoints: Record<string, unknown>[];
    };
    expect(checkpoints[0]).toMatchObject({
      checkpoint_id: 'weights/state',
      checkpoint_type: 'training',
      tinker_path: path,
      public: false,
      user_metadata: { step: '1' },
      expires_at: null,
    });
    expect(Number(checkpoints[0]?.size_bytes)).toBeGreaterThan(100);
    const life = Date.parse(String(checkpoints[1]?.expires_at)) - Date.parse(String(checkpoints[1]?.time));
    expect(life).toBe(3_600_000);
    const all = (await server.get('/checkpoints?limit=1&offset=1')).json;
    expect(all).toMatchObject({ checkpoints: [{ tinker_path: path }], cursor: { total_count: 2 } });
  });

  test('what a checkpoint covers can be asked by its path, in both schemes', async () => {
    const server = await open();
    const { path } = await trained(server);
    for (const tinker_path of [path, path.replace('tinker:', 'logits:')]) {
      expect((await server.post('/weights_info', { tinker_path })).json).toMatchObject({
        base_model: 'tiny',
        is_lora: true,
        lora_rank: 4,
        train_attn: true,
        train_mlp: true,
        train_unembed: true,
      });
    }
    for (const tinker_path of ['tinker://a/b', 'http://x/weights/y', 'tinker://r/other/n']) {
      expect((await server.post('/weights_info', { tinker_path })).status).toBe(400);
    }
  });

  test('deleting removes the entry and the files; a second time is 404', async () => {
    const server = await open();
    const { model, path } = await trained(server);
    const row = await server.store.checkpoints.get({ runId: model, kind: 'weights', name: 'state' });
    expect((await server.call('DELETE', own(path))).status).toBe(204);
    await expect(server.store.blobs.local(row!.blob)).rejects.toThrow();
    expect((await server.call('DELETE', own(path))).status).toBe(404);
    const load = { session_id: await server.session(), model_seq_id: 0, path, optimizer: false };
    expect((await server.result(await server.post('/load_weights', load))).json.category).toBe('user');
  });

  test('a published checkpoint can be read with other keys, until it is unpublished', async () => {
    const server = await open();
    const { model, path } = await trained(server);
    const other = { key: server.otherKey };
    const info = () => server.post('/weights_info', { tinker_path: path }, other);
    expect((await info()).status).toBe(404);
    expect((await server.post(`${own(path)}/publish`, undefined, other)).status).toBe(404);
    expect((await server.post(`${own(path)}/publish`)).status).toBe(204);
    expect((await info()).status).toBe(200);
    const session = await server.session(server.otherKey);
    const load = { session_id: session, model_seq_id: 0, path, optimizer: true };
    expect((await server.result(await server.post('/load_weights', load, other), other)).json.path).toBe(
      path,
    );
    expect((await server.call('DELETE', own(path), undefined, other)).status).toBe(404);
    const listed = await server.get(`/training_runs/${model}?access_scope=accessible`, other);
    expect(listed.json.training_run_id).toBe(model);
    expect((await server.call('DELETE', `${own(path)}/publish`)).status).toBe(204);
    expect((await info()).status).toBe(404);
  });

  test('expiry can be set and removed, within its range, and is enforced', async () => {
    const server = await open();
    const { model, path } = await trained(server);
    const setTtl = (ttl_seconds: number | null) => server.call('PUT', `${own(path)}/ttl`, { ttl_seconds });
    for (const bad of [3599, 315_360_001, 1.5]) expect((await setTtl(bad)).status).toBe(400);
    expect((await setTtl(3600)).status).toBe(204);
    expect((await setTtl(null)).status).toBe(204);
    const key = { runId: model, kind: 'weights' as const, name: 'state' };
    expect((await server.store.checkpoints.get(key))?.expiresAt).toBeNull();
    const { blob } = (await server.store.checkpoints.get(key))!;
    await server.store.checkpoints.setExpiry(key, Date.now() - 1);
    expect((await server.post('/weights_info', { tinker_path: path })).status).toBe(404);
    await server.app.services.checkpoints.sweep();
    await expect(server.store.blobs.local(blob)).rejects.toThrow();
  });

  test('a damaged checkpoint is refused at load and marks its run', async () => {
    const server = await open();
    const { model, path } = await trained(server);
    const { blob } = (await server.store.checkpoints.get({ runId: model, kind: 'weights', name: 'state' }))!;
    await appendFile(join(await server.store.blobs.local(blob), 'adapter_model.safetensors'), 'x');
    const load = { session_id: await server.session(), model_seq_id: 0, path, optimizer: true };
    const { json } = await server.result(await server.post('/load_weights', load));
    expect(json.error).toContain('adapter_model.safetensors');
    expect((await server.get(`/training_runs/${model}`)).json.corrupted).toBe(true);
  });

  test('a sampler of a deleted checkpoint works on until its session ends', async () => {
    const server = await open();
    const model = await server.model();
    const save = { model_id: model, seq_id: 1, path: 'smp' };
    const { json } = await server.result(await server.post('/save_weights_for_sampler', save));
    const session = await server.session();
    const sampler = await server.sampler({ session, path: String(json.path) });
    expect((await server.get(`/samplers/${sampler}`)).json).toEqual({
      sampler_id: sampler,
      base_model: 'tiny',
      model_path: json.path,
    });
    await server.call('DELETE', own(String(json.path)));
    expect((await server.result(await server.sample(sampler, 0))).status).toBe(200);
    await server.post(`/sessions/${session}/finish`, { reason: { type: 'success' } });
    expect((await server.sample(sampler, 1)).status).toBe(403);
  });

  test('samplers and exports take an expiry and metadata too', async () => {
    const server = await open();
    const model = await server.model();
    const sampler = { model_id: model, seq_id: 1, path: 's', ttl_seconds: 3600, user_metadata: { k: 'v' } };
    await server.result(await server.post('/save_weights_for_sampler', { ...sampler, kind: 'snapshot' }));
    const external = { model_id: model, seq_id: 2, path: 'e', ttl_seconds: 7200 };
    await server.result(await server.post('/save_weights_external', external));
    const { checkpoints } = (await server.get(`/training_runs/${model}/checkpoints`)).json as {
      checkpoints: { checkpoint_id: string; time: string; expires_at: string; user_metadata: unknown }[];
    };
    const life = checkpoints.map((row) => (Date.parse(row.expires_at) - Date.parse(row.time)) / 1000);
    expect(life).toEqual([3600, 7200]);
    expect(checkpoints[0]?.user_metadata).toEqual({ k: 'v' });
  });

  test('an inflight sampler is a snapshot of the latest weights', async () => {
    const server = await open();
    const model = await server.model();
    await server.forwardBackward(model, 1);
    await server.optimStep(model, 2);
    const save = { model_id: model, seq_id: 3, sampling_session_seq_id: 0, kind: 'inflight' };
    const { json } = await server.result(await server.post('/save_weights_for_sampler', save));
    const [sampler] = [...server.engine.samplers.values()];
    expect(sampler?.version).toBe(server.engine.models.get(model)?.version);
    expect(json.sampling_session_id).toContain(':sample:0');
  });

  test('a copy is its own checkpoint, the same for the same idempotency key', async () => {
    const server = await open();
    const { model, path } = await trained(server);
    const headers = { 'x-idempotency-key': 'k1' };
    const body = { source_path: path, destination_project_id: 'p', ttl_seconds: 3600 };
    const first = await server.post('/copy_weights', body, { headers });
    const again = await server.post('/copy_weights', body, { headers });
    expect(again.json).toEqual(first.json);
    const copy = String(first.json.tinker_path);
    expect(copy).not.toContain(model);
    const runs = (await server.get('/training_runs?project_id=p')).json;
    expect(runs).toMatchObject({ training_runs: [{ last_checkpoint: { tinker_path: copy } }] });
    expect((await server.post('/copy_weights', { ...body, weights_access_token: 't' })).status).toBe(400);
    await server.call('DELETE', own(path));
    const load = { session_id: await server.session(), model_seq_id: 0, path: copy, optimizer: true };
    expect((await server.result(await server.post('/load_weights', load))).json.path).toBe(copy);
    const session = await server.session();
    const slot = await server.post('/copy_weights', {
      source_path: copy,
      session_id: session,
      model_seq_id: 4,
    });
    expect(slot.json.tinker_path).toBe(`tinker://${session}:train:4/weights/state`);
    expect((await server.post('/copy_weights', body, { key: server.otherKey })).status).toBe(404);
  });

  test('exports name the head as the API does, and are encrypted for their recipients', async () => {
    const server = await open();
    const model = await server.model();
    const identity = await generateIdentity();
    const recipient = await identityToRecipient(identity);
    const save = async (seq: number, name: string, recipients: string[]) => {
      const body = { model_id: model, seq_id: seq, path: name, age_encryption_recipients: recipients };
      return await server.result(await server.post('/save_weights_external', body));
    };
    const files = async (name: string) => {
      const path = `/training_runs/${model}/checkpoints/external_weights/${name}/external_weights_urls`;
      const { urls } = (await server.get(path)).json as { urls: Record<string, string> };
      const fetched = Object.entries(urls).map(async ([file, url]) => {
        const link = new URL(url);
        const { rawPayload } = await server.app.http.inject({ url: link.pathname + link.search });
        return [file, rawPayload] as const;
      });
      return Object.fromEntries(await Promise.all(fetched));
    };
    expect((await save(1, 'plain', [])).json).toMatchObject({ size_bytes: expect.any(Number) });
    const plain = await files('plain');
    expect(plain['adapter_model.safetensors']?.toString('latin1')).toContain(
      'base_model.model.model.unembed_tokens.lora_A.weight',
    );
    await save(2, 'secret', [recipient]);
    const secret = await files('secret');
    expect(Object.keys(secret).sort()).toEqual(['adapter_config.json.age', 'adapter_model.safetensors.age']);
    const decrypter = new Decrypter();
    decrypter.addIdentity(identity);
    const config = await decrypter.decrypt(secret['adapter_config.json.age']!, 'text');
    expect(JSON.parse(config)).toMatchObject({ r: 4 });
    expect((await save(3, 'bad', ['age1nonsense'])).json).toMatchObject({ category: 'user' });
    const load = {
      session_id: await server.session(),
      model_seq_id: 0,
      path: `tinker://${model}/external_weights/plain`,
    };
    expect(
      (await server.result(await server.post('/load_weights', { ...load, optimizer: true }))).json.category,
    ).toBe('user');
  });

  test('an adapter downloads as a tar, whole or in ranges, without a key', async () => {
    const server = await open();
    const { path } = await trained(server);
    const { json, headers } = await server.get(`${own(path)}/archive`);
    expect(Date.parse(String(json.expires))).toBeGreaterThan(Date.now() + 300_000);
    expect(Date.parse(String(headers.expires))).toBe(Date.parse(String(json.expires)));
    const link = new URL(String(json.url));
    const url = link.pathname + link.search;
    const { http } = server.app;
    const whole = await http.inject({ url });
    expect(Number(whole.headers['content-length'])).toBe(whole.rawPayload.length);
    expect(whole.rawPayload.length % 512).toBe(0);
    const names = [0, 1].map(
      (i) =>
        whole.rawPayload
          .toString('latin1')
          .split('ustar')
          [i]?.match(/adapter_\w+\.\w+/)?.[0],
    );
    expect(names.sort()).toEqual(['adapter_config.json', 'adapter_model.safetensors']);
    const head = await http.inject({ method: 'HEAD', url });
    expect([head.statusCode, head.headers['content-length'], head.rawPayload.length]).toEqual([
      200,
      whole.headers['content-length'],
      0,
    ]);
    const part = await http.inject({ url, headers: { range: 'bytes=500-699' } });
    expect(part.statusCode).toBe(206);
    expect(part.headers['content-range']).toBe(`bytes 500-699/${whole.rawPayload.length}`);
    expect(part.rawPayload).toEqual(whole.rawPayload.subarray(500, 700));
    const tail = await http.inject({ url, headers: { range: 'bytes=-100' } });
    expect(tail.rawPayload).toEqual(whole.rawPayload.subarray(-100));
    const outside = await http.inject({ url, headers: { range: 'bytes=99999999-' } });
    expect(outside.statusCode).toBe(416);
  });

  test('a forged or expired link opens nothing', async () => {
    const server = await open();
    const { path } = await trained(server);
    const link = new URL(String((await server.get(`${own(path)}/archive`)).json.url));
    const { http } = server.app;
    const later = new URLSearchParams(link.search);
    later.set('expires', String(Number(later.get('expires')) + 1000));
    expect((await http.inject({ url: `${link.pathname}?${later}` })).statusCode).toBe(404);
    expect((await http.inject({ url: link.pathname })).statusCode).toBe(404);
    expect(
      (await http.inject({ url: link.pathname.replace('weights', 'sampler_weights') + link.search }))
        .statusCode,
    ).toBe(404);
    const secret = await server.store.settings.secret('downloads');
    const { SignedLinks } = await import('../src/downloads/signed-links.ts');
    const expired = new SignedLinks(secret, 1).sign(
      link.pathname,
      Math.floor(Date.now() / 1000) * 1000 - 1000,
    );
    expect((await http.inject({ url: `${link.pathname}?${expired}` })).statusCode).toBe(410);
  });
});

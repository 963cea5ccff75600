/** The 24 traps of the Tinker wire format: each breaks real clients, silently or not. */
import { zstdCompressSync } from 'node:zlib';
import { decodeForwardBackwardOutput, decodeSampleResponse } from '@anneal/types';
import { expect, test } from 'vitest';
import { FakeEngine } from './fake-engine.ts';
import { onEachDatabase, PROTOBUF, passBody, type TestServer } from './harness.ts';

const proto = { headers: { accept: PROTOBUF } };

async function promptLogprobs(server: TestServer, sampler: string, seq: number, tokens: number[]) {
  const request = {
    prompt: { chunks: [{ type: 'encoded_text', tokens }] },
    prompt_logprobs: true,
    sampling_params: { max_tokens: 1 },
  };
  const answer = await server.result(await server.sample(sampler, seq, request), proto);
  return decodeSampleResponse(answer.raw).prompt_logprobs;
}

onEachDatabase((open) => {
  test('1: results of samples and passes are protobuf for clients that ask for it', async () => {
    const server = await open();
    const model = await server.model();
    const pass = await server.result(await server.forwardBackward(model, 1), proto);
    expect(pass.headers['content-type']).toBe(PROTOBUF);
    expect(decodeForwardBackwardOutput(pass.raw).loss_fn_outputs).toHaveLength(1);
    const sample = await server.result(await server.sample(await server.sampler(), 0), proto);
    expect(sample.headers['content-type']).toBe(PROTOBUF);
    expect(decodeSampleResponse(sample.raw).sequences).toHaveLength(1);
  });

  test('2: client/config exists', async () => {
    const server = await open();
    const answer = await server.post('/client/config', { sdk_version: '0.38.0' });
    expect(answer.status).toBe(200);
    expect(answer.json.pjwt_auth_enabled ?? false).toBe(false);
  });

  test('3: requests run by number, not in order of arrival', async () => {
    const server = await open();
    const model = await server.model();
    const step = await server.optimStep(model, 3);
    const second = await server.forwardBackward(model, 2);
    const first = await server.forwardBackward(model, 1, { forwardOnly: true });
    for (const promise of [step, second, first]) expect((await server.result(promise)).status).toBe(200);
    const calls = server.engine.calls.filter((call) => call !== 'createModel');
    expect(calls).toEqual(['forward', 'forwardBackward', 'optimStep']);
  });

  test('4: neighbouring numbers above 2^53 are different requests', async () => {
    const server = await open();
    const sampler = await server.sampler();
    const base = 987_654_321n * 10n ** 9n;
    const ids = [];
    for (const seq of [base, base + 1n]) {
      const request = { sampling_params: { max_tokens: 2, seed: 2n ** 64n - 1n } };
      const promise = await server.sample(sampler, seq, request);
      expect(promise.status).toBe(200);
      ids.push(promise.json.request_id);
    }
    expect(ids).toEqual([`${sampler}:${base}`, `${sampler}:${base + 1n}`]);
  });

  test('5: an existing name fails the future as the user’s mistake, never with 409', async () => {
    const server = await open();
    const model = await server.model();
    await server.saveState(model, 1, 'same');
    const promise = await server.post('/save_weights', { model_id: model, seq_id: 2, path: 'same' });
    expect(promise.status).toBe(200);
    expect((await server.result(promise)).json).toMatchObject({
      error: expect.stringContaining('same'),
      category: 'user',
    });
    expect(await server.saveState(model, 3, 'same', { overwrite: true })).toContain('/weights/same');
  });

  test('6: a slow result is answered with 408 and try_again', async () => {
    const server = await open();
    const model = await server.model();
    let release = (): void => {};
    server.engine.gate = new Promise((resolve) => {
      release = resolve;
    });
    const { json } = await server.forwardBackward(model, 1);
    const poll = { request_id: json.request_id };
    const waiting = await server.post('/retrieve_future', poll);
    expect(waiting.status).toBe(408);
    expect(waiting.json).toMatchObject({
      type: 'try_again',
      request_id: json.request_id,
      queue_state: 'active',
    });
    release();
    expect((await server.post('/retrieve_future', poll)).status).toBe(200);
  });

  test('7: a refused request takes its number', async () => {
    const server = await open();
    const model = await server.model();
    const bad = { model_id: model, seq_id: 1, adam_params: { learning_rate: -1 } };
    const refused = await server.post('/optim_step', bad);
    expect(refused.status).toBe(400);
    expect(refused.json.detail).toContain('learning_rate');
    const broken = passBody(model, 2).subarray(0, -3);
    expect((await server.post('/forward_backward', broken)).status).toBe(400);
    expect((await server.result(await server.optimStep(model, 3))).json.type).toBe('optim_step');
  });

  test('8: the stop token is part of the sample', async () => {
    const server = await open();
    const sampler = await server.sampler();
    const free = { sampling_params: { max_tokens: 4, seed: 1, stop: [] } };
    const [sequence] = decodeSampleResponse(
      (await server.result(await server.sample(sampler, 0, free), proto)).raw,
    ).sequences;
    const stop = sequence?.tokens[2] ?? -1;
    const stopped = { sampling_params: { max_tokens: 4, seed: 1, stop: [stop] } };
    const [cut] = decodeSampleResponse(
      (await server.result(await server.sample(sampler, 1, stopped), proto)).raw,
    ).sequences;
    expect(cut).toMatchObject({ stop_reason: 'stop', tokens: sequence?.tokens.slice(0, 3) });
    expect(cut?.logprobs).toHaveLength(3);
  });

  test('9: the loss of a batch is the sum of its datums', async () => {
    const server = await open();
    const model = await server.model();
    const one = await server.result(await server.forwardBackward(model, 1, { forwardOnly: true }));
    const three = await server.result(await server.forwardBackward(model, 2, { forwardOnly: true, data: 3 }));
    const sum = (answer: typeof one) => (answer.json.metrics as Record<string, number>)['loss:sum'];
    expect(sum(three)).toBeCloseTo(3 * (sum(one) ?? 0), 4);
  });

  test('10: loading with the optimizer continues as if nothing had happened', async () => {
    const server = await open();
    const model = await server.model();
    await server.forwardBackward(model, 1);
    await server.optimStep(model, 2);
    const path = await server.saveState(model, 3, 'state');
    const load = async (optimizer: boolean) => {
      const session = await server.session();
      const body = { session_id: session, model_seq_id: 0, path, optimizer };
      const loaded = await server.result(await server.post('/load_weights', body));
      return String(loaded.json.model_id);
    };
    const next = async (id: string, seq: number) => {
      await server.forwardBackward(id, seq);
      await server.result(await server.optimStep(id, seq + 1));
      return await server.loss(id, seq + 2);
    };
    const live = await next(model, 4);
    expect(await next(await load(true), 1)).toBe(live);
    expect(await next(await load(false), 1)).not.toBe(live);
  });

  test('11: temperature does not change the logprobs of the same tokens', async () => {
    const server = await open();
    const sampler = await server.sampler();
    const sequence = async (seq: number, temperature: number) => {
      const params = { max_tokens: 3, temperature, seed: 0, stop: [] };
      const answer = await server.result(
        await server.sample(sampler, seq, { sampling_params: params }),
        proto,
      );
      return decodeSampleResponse(answer.raw).sequences[0];
    };
    const [cold, hot] = [await sequence(0, 0), await sequence(1, 2)];
    expect(hot?.tokens).toEqual(cold?.tokens);
    expect(hot?.logprobs).toEqual(cold?.logprobs);
  });

  test('12: samples of one seeded group differ, and the group repeats', async () => {
    const server = await open();
    const sampler = await server.sampler();
    const group = async (seq: number) => {
      const answer = await server.result(await server.sample(sampler, seq, { num_samples: 4 }), proto);
      return decodeSampleResponse(answer.raw).sequences.map(({ tokens }) => tokens.join());
    };
    const first = await group(0);
    expect(new Set(first).size).toBe(4);
    expect(await group(1)).toEqual(first);
  });

  test('13: a metric without one reduction never reaches a client, and loss:sum is always there', async () => {
    const server = await open();
    const model = await server.model();
    const good = await server.result(await server.forwardBackward(model, 1));
    expect(good.json.metrics).toHaveProperty('loss:sum');
    server.engine.extraMetrics = { kl: 1 };
    const bad = await server.result(await server.forwardBackward(model, 2));
    expect(bad.json).toMatchObject({ error: expect.stringContaining('"kl"'), category: 'server' });
  });

  test('14: offsets count bytes', async () => {
    const server = await open();
    const model = await server.model();
    const answer = await server.result(await server.forwardBackward(model, 1, { data: 3 }), proto);
    const { loss_fn_outputs: outputs } = decodeForwardBackwardOutput(answer.raw);
    expect(outputs.map((output) => output.logprobs?.shape)).toEqual([[4], [4], [4]]);
    const offsets = Buffer.from(BigInt64Array.from([0n, 16n, 32n, 48n]).buffer);
    expect(answer.raw.includes(offsets)).toBe(true);
  });

  test('15: model ids are {session}:train:{n}, also after a load', async () => {
    const server = await open();
    const session = await server.session();
    const model = await server.model({ session, seq: 7 });
    expect(model).toBe(`${session}:train:7`);
    const path = await server.saveState(model, 1, 'a');
    const body = { session_id: session, model_seq_id: 8, path, optimizer: true };
    expect((await server.result(await server.post('/load_weights', body))).status).toBe(200);
    const info = await server.post('/get_info', { model_id: `${session}:train:8` });
    expect(info.json).toMatchObject({ is_lora: true, lora_rank: 4, model_data: { model_name: 'tiny' } });
  });

  test('16: bodies may be zstd protobuf and far above 1 MB', async () => {
    const server = await open();
    const model = await server.model();
    const small = zstdCompressSync(passBody(model, 1));
    const headers = { 'content-encoding': 'zstd' };
    expect((await server.result(await server.post('/forward_backward', small, { headers }))).status).toBe(
      200,
    );
    const large = passBody(model, 2, { tokens: Array.from({ length: 4_300_000 }, (_, i) => i % 900) });
    expect(large.byteLength).toBeGreaterThan(64 * 2 ** 20);
    expect((await server.post('/forward_backward', large)).status).toBe(200);
  });

  test('17: checkpoint calls take ":" and the second "/" as they are', async () => {
    const server = await open();
    const model = await server.model();
    await server.saveState(model, 1, 'plain name');
    const path = `/training_runs/${model}/checkpoints/weights/plain%20name`;
    expect((await server.post(`${path}/publish`)).status).toBe(204);
    expect((await server.call('DELETE', path)).status).toBe(204);
  });

  test('18: 204 comes bare', async () => {
    const server = await open();
    const session = await server.session();
    const body = { reason: { type: 'success' }, detail: null };
    for (let i = 0; i < 2; i += 1) {
      const answer = await server.post(`/sessions/${session}/finish`, body);
      expect([answer.status, answer.raw.length, answer.headers['content-type']]).toEqual([204, 0, undefined]);
    }
  });

  test('19: a sampler keeps its weights when training goes on', async () => {
    const server = await open();
    const model = await server.model();
    const save = { model_id: model, seq_id: 1, sampling_session_seq_id: 0, kind: 'snapshot' };
    const saved = await server.result(await server.post('/save_weights_for_sampler', save));
    const sampler = String(saved.json.sampling_session_id);
    const before = await promptLogprobs(server, sampler, 0, [5, 6, 7]);
    await server.forwardBackward(model, 2);
    await server.result(await server.optimStep(model, 3));
    expect(await promptLogprobs(server, sampler, 1, [5, 6, 7])).toEqual(before);
    const again = { ...save, seq_id: 4, sampling_session_seq_id: 1 };
    const newer = await server.result(await server.post('/save_weights_for_sampler', again));
    expect(await promptLogprobs(server, String(newer.json.sampling_session_id), 0, [5, 6, 7])).not.toEqual(
      before,
    );
  });

  test('20: idle connections outlive the longest poll', async () => {
    const server = await open();
    expect(server.app.http.server.keepAliveTimeout).toBeGreaterThan(60_000);
    expect(server.app.http.server.requestTimeout).toBe(0);
  });

  test('21: a one-token prompt has one prompt logprob, which is none', async () => {
    const server = await open();
    expect(await promptLogprobs(server, await server.sampler(), 0, [5])).toEqual([null]);
  });

  test('22: telemetry is accepted', async () => {
    const server = await open();
    const event = {
      event: 'GENERIC_EVENT',
      event_id: 'e',
      event_name: 'x',
      event_session_index: 0,
      severity: 'INFO',
      timestamp: '2026-01-01T00:00:00Z',
      event_data: { anything: [1, { deep: null }] },
    };
    const batch = {
      platform: 'Linux',
      sdk_version: '0.38.0',
      session_id: 'sessionless-1',
      process_uuid: 'p',
    };
    const answer = await server.post('/telemetry', { ...batch, events: [event] });
    expect([answer.status, answer.json]).toEqual([200, { status: 'accepted' }]);
  });

  test('23: every 400 has a body and its length', async () => {
    const server = await open();
    const broken = [
      await server.post('/create_session', {}),
      await server.post('/create_session'),
      await server.post('/forward_backward', new Uint8Array([255, 255])),
      await server.post('/forward_backward', {}),
    ];
    for (const answer of broken) {
      expect(answer.status).toBe(400);
      expect(Number(answer.headers['content-length'])).toBeGreaterThan(10);
      expect(answer.json.detail).toEqual(expect.any(String));
    }
  });

  test('24: download links need no key', async () => {
    const server = await open({ engine: new FakeEngine() });
    const model = await server.model();
    const save = { model_id: model, seq_id: 1, path: 'export' };
    await server.result(await server.post('/save_weights_external', save));
    const path = `/training_runs/${model}/checkpoints/external_weights/export/external_weights_urls`;
    const { urls } = (await server.get(path)).json as { urls: Record<string, string> };
    const link = new URL(urls['adapter_config.json'] ?? '');
    const file = await server.app.http.inject({ url: link.pathname + link.search });
    expect(file.statusCode).toBe(200);
    expect(Number(file.headers['content-length'])).toBe(file.rawPayload.length);
    expect(JSON.parse(file.payload)).toMatchObject({ r: 4 });
  });
});

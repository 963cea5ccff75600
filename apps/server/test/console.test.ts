import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  ConsoleCalls,
  ConsoleMetrics,
  ConsoleOverview,
  ConsoleRolloutDetail,
  ConsoleRollouts,
  ConsoleRunDetail,
  ConsoleRuns,
  ConsoleUsage,
  consoleEvents,
} from '@anneal/types/console';
import { expect, test } from 'vitest';
import { buildApp, ServerConfig } from '../src/index.ts';
import { sweep } from '../src/sweeper.ts';
import { FakeEngine } from './fake-engine.ts';
import { MODEL, onEachDatabase, type TestServer } from './harness.ts';

interface Asked {
  status: number;
  json: Record<string, unknown>;
}

async function ask(server: TestServer, path: string, key = server.key, method = 'GET'): Promise<Asked> {
  await server.app.services.console.recorder.flush();
  const url = `/console/api${path}`;
  const response = await server.app.http.inject({
    method: method as 'GET',
    url,
    headers: { 'x-api-key': key },
  });
  return { status: response.statusCode, json: response.body ? JSON.parse(response.body) : {} };
}

/** Three steps of two passes each. */
async function train(server: TestServer, model: string, steps = 3): Promise<void> {
  for (let step = 0; step < steps; step += 1) {
    await server.forwardBackward(model, 3 * step + 1, { tokens: [5, 6, 7, 8], data: 2 });
    await server.forwardBackward(model, 3 * step + 2, { tokens: [5, 6], data: 1 });
    await server.result(await server.optimStep(model, 3 * step + 3, 0.25));
  }
}

onEachDatabase((open) => {
  test('each optimizer step becomes one point with the metrics of all its passes', async () => {
    const server = await open();
    server.engine.extraMetrics = { 'kl:mean': 2 };
    const model = await server.model();
    await train(server, model);
    const metrics = ConsoleMetrics.parse((await ask(server, `/runs/${model}/metrics`)).json);
    expect(metrics.steps).toEqual([1, 2, 3]);
    expect(metrics.series['tokens:sum']).toEqual([10, 10, 10]);
    expect(metrics.series['sequences:sum']).toEqual([3, 3, 3]);
    expect(metrics.series['kl:mean']).toEqual([2, 2, 2]);
    expect(metrics.series.learning_rate).toEqual([0.25, 0.25, 0.25]);
    expect(metrics.series['grad_norm:l2']?.every((value) => typeof value === 'number')).toBe(true);
    const sums = metrics.series['loss:sum'] ?? [];
    expect(metrics.series['loss:mean']).toEqual(sums.map((sum) => Number(((sum ?? 0) / 10).toPrecision(6))));
    const later = ConsoleMetrics.parse((await ask(server, `/runs/${model}/metrics?after=2`)).json);
    expect(later.steps).toEqual([3]);
  });

  test('the loss of a step is the sum that its passes answered', async () => {
    const server = await open();
    const model = await server.model();
    const passes = [
      await server.result(await server.forwardBackward(model, 1)),
      await server.result(await server.forwardBackward(model, 2, { tokens: [9, 9, 9] })),
    ];
    await server.result(await server.optimStep(model, 3));
    const answered = passes.map(({ json }) => (json.metrics as Record<string, number>)['loss:sum'] ?? 0);
    const metrics = ConsoleMetrics.parse((await ask(server, `/runs/${model}/metrics`)).json);
    expect(metrics.series['loss:sum']?.[0]).toBeCloseTo(
      answered.reduce((sum, value) => sum + value),
      4,
    );
  });

  test('forward passes leave no trace in the curve', async () => {
    const server = await open();
    const model = await server.model();
    await server.result(await server.forwardBackward(model, 1));
    await server.loss(model, 2);
    await server.result(await server.optimStep(model, 3));
    const metrics = ConsoleMetrics.parse((await ask(server, `/runs/${model}/metrics`)).json);
    expect(metrics.series['tokens:sum']).toEqual([4]);
  });

  test('the calls of a run are told in the order of their ends, with what they did', async () => {
    const server = await open();
    const model = await server.model();
    await server.result(await server.forwardBackward(model, 1, { data: 2 }));
    await server.result(await server.forwardBackward(model, 2));
    await server.result(await server.optimStep(model, 3, 0.25));
    await server.result(await server.forwardBackward(model, 4, { lossFn: 'ppo' }));
    let release = () => {};
    server.engine.gate = new Promise((resolve) => {
      release = resolve;
    });
    const pending = await server.forwardBackward(model, 5);
    const all = ConsoleCalls.parse((await ask(server, `/runs/${model}/calls`)).json);
    expect(all.calls.map(({ kind, seq, state }) => [kind, seq, state])).toEqual([
      ['create_model', null, 'done'],
      ['forward_backward', '1', 'done'],
      ['forward_backward', '2', 'done'],
      ['optim_step', '3', 'done'],
      ['forward_backward', '4', 'failed'],
    ]);
    const [, first, , step, failed] = all.calls;
    expect(first).toMatchObject({ tokens: 8, sequences: 2, loss_fn: 'cross_entropy', error: null });
    expect(first?.metrics).toHaveProperty('loss:sum');
    expect(step?.metrics).toMatchObject({ learning_rate: 0.25 });
    expect(failed).toMatchObject({ error: expect.stringContaining('ppo'), metrics: {}, tokens: null });
    for (const { submitted_at: submitted, started_at: started, ended_at: end } of all.calls) {
      expect(submitted).toBeLessThanOrEqual(started ?? Number.NaN);
      expect(started).toBeLessThanOrEqual(end ?? Number.NaN);
    }
    expect(all.pending).toMatchObject([{ seq: '5', state: 'pending', ended_at: null, metrics: {} }]);
    expect(all).toMatchObject({ more: false, run_ended: false });
    release();
    await server.result(pending);
    const later = ConsoleCalls.parse((await ask(server, `/runs/${model}/calls?after=${all.cursor}`)).json);
    expect(later.calls.map(({ seq }) => seq)).toEqual(['5']);
    const page = ConsoleCalls.parse((await ask(server, `/runs/${model}/calls?limit=2`)).json);
    expect([page.calls.length, page.more]).toEqual([2, true]);
    const last = ConsoleCalls.parse((await ask(server, `/runs/${model}/calls?limit=2&last=true`)).json);
    expect(last.calls.map(({ seq }) => seq)).toEqual(['4', '5']);
    expect((await ask(server, `/runs/${model}/calls`, server.otherKey)).status).toBe(404);
    await server.result(await server.post('/unload_model', { model_id: model }));
    expect((await ask(server, `/runs/${model}/calls`)).json.run_ended).toBe(true);
  });

  test('runs show their LoRA, latest step, settings and checkpoints', async () => {
    const server = await open();
    const model = await server.model();
    await train(server, model, 2);
    await server.saveState(model, 7, 'kept');
    const { runs, total } = ConsoleRuns.parse((await ask(server, '/runs')).json);
    expect(total).toBe(1);
    expect(runs[0]).toMatchObject({ run_id: model, base_model: MODEL, state: 'training', step: 2 });
    const detail = ConsoleRunDetail.parse((await ask(server, `/runs/${model}`)).json);
    expect(detail.run.lora).toMatchObject({ rank: 4, alpha: 32, seed: '1', train_attn: true });
    expect(detail.settings).toMatchObject({ loss_fn: 'cross_entropy', learning_rate: 0.25, beta1: 0.9 });
    expect(detail.checkpoints.map(({ checkpoint_id }) => checkpoint_id)).toEqual(['weights/kept']);
    await server.result(await server.post('/unload_model', { model_id: model }));
    const after = ConsoleRunDetail.parse((await ask(server, `/runs/${model}`)).json);
    expect(after.run.state).toBe('ended');
    expect(after.run.step).toBe(2);
  });

  test('samples are recorded with their log-probabilities, and scoring is not', async () => {
    const server = await open();
    const session = await server.session();
    const sampler = await server.sampler({ session });
    const request = { num_samples: 2, sampling_params: { max_tokens: 4, seed: 1, temperature: 0.5 } };
    await server.result(await server.sample(sampler, 0, request));
    await server.result(
      await server.sample(sampler, 1, { sampling_params: { max_tokens: 1 }, prompt_logprobs: true }),
    );
    const { rollouts } = ConsoleRollouts.parse((await ask(server, `/sessions/${session}/rollouts`)).json);
    expect(rollouts).toHaveLength(1);
    expect(rollouts[0]).toMatchObject({ prompt_tokens: 3, temperature: 0.5, max_tokens: 4 });
    const id = encodeURIComponent(rollouts[0]?.rollout_id ?? '');
    const detail = ConsoleRolloutDetail.parse((await ask(server, `/rollouts/${id}`)).json);
    expect(detail.prompt).toBe('5 6 7');
    expect(detail.texts).toHaveLength(2);
    for (const text of detail.texts) {
      const logprobs = text.pieces.map(({ logprob }) => logprob);
      const mean = logprobs.reduce((sum, value) => sum + value, 0) / logprobs.length;
      expect(logprobs).toHaveLength(4);
      expect(text.mean_logprob).toBeCloseTo(mean, 3);
    }
  });

  test('a text that training uses shows the advantage that it got', async () => {
    const server = await open();
    const session = await server.session();
    const sampler = await server.sampler({ session });
    const answer = await server.result(await server.sample(sampler, 0, { num_samples: 2 }));
    expect(answer.status).toBe(200);
    await server.app.services.console.recorder.flush();
    const [stored] = await server.store.rollouts.ofSession(session, 'ada', 10);
    const [first, second] = stored?.tokens.texts ?? [];
    const model = await server.model({ session });
    const run = (await server.store.runs.get(model))!;
    const datum = (tokens: number[], advantage: number) => {
      const all = [...(stored?.tokens.prompt ?? []), ...tokens.slice(0, -1)];
      const data = Float32Array.from(all, (_, at) => (at < 2 ? 0 : advantage));
      return {
        tokens: Int32Array.from(all),
        inputs: { advantages: { dtype: 'float32' as const, shape: [all.length], data } },
      };
    };
    server.app.services.console.recorder.passed(run, {
      data: [datum(first?.tokens ?? [], 1.5), datum(second?.tokens ?? [], -1.5), datum([1, 2, 3], 9)],
      lossFn: 'ppo',
      metrics: { 'loss:sum': 1 },
      startedAt: Date.now(),
    });
    const { rollouts } = ConsoleRollouts.parse((await ask(server, `/sessions/${session}/rollouts`)).json);
    expect(rollouts[0]?.texts.map(({ advantage }) => advantage)).toEqual([1.5, -1.5]);
  });

  test('a session keeps a bounded number of samples, none where recording is off', async () => {
    const server = await open({ config: { rolloutsPerSession: 2 } });
    const session = await server.session();
    const sampler = await server.sampler({ session });
    for (const seq of [0, 1, 2]) await server.result(await server.sample(sampler, seq));
    const { rollouts } = ConsoleRollouts.parse((await ask(server, `/sessions/${session}/rollouts`)).json);
    expect(rollouts.map(({ rollout_id }) => rollout_id)).toEqual([`${sampler}:2`, `${sampler}:1`]);
    await sweep(server.app.services, server.store, configOf({}), Date.now() + 25 * 3_600_000);
    expect((await ask(server, '/rollouts')).json.sessions).toEqual([]);

    const off = await open({ config: { rolloutsPerSession: 0, metricSteps: 0 } });
    const quiet = await off.session();
    await off.result(await off.sample(await off.sampler({ session: quiet }), 0));
    expect((await ask(off, '/account')).json.records_rollouts).toBe(false);
    expect((await ask(off, '/rollouts')).json.sessions).toEqual([]);
    const model = await off.model();
    await train(off, model, 1);
    expect((await ask(off, `/runs/${model}/metrics`)).json.steps).toEqual([]);
  });

  test('usage counts what was trained and sampled, by owner', async () => {
    const server = await open();
    const model = await server.model();
    await train(server, model);
    await server.result(await server.sample(await server.sampler(), 0, { num_samples: 3 }));
    const usage = ConsoleUsage.parse((await ask(server, '/usage')).json);
    expect(usage.days).toHaveLength(1);
    expect(usage.days[0]).toMatchObject({
      trained_tokens: 30,
      steps: 3,
      prompt_tokens: 3,
      sampled_tokens: 12,
    });
    expect(usage.runs).toBe(1);
    expect((await ask(server, '/usage', server.otherKey)).json).toMatchObject({ days: [], runs: 0 });
  });

  test('everything of one owner is unknown to another', async () => {
    const server = await open();
    const session = await server.session();
    const model = await server.model({ session });
    await train(server, model, 1);
    const sampler = await server.sampler({ session });
    await server.result(await server.sample(sampler, 0));
    const [mine] = (await ask(server, '/keys')).json.keys as { key_id: string }[];
    const key = server.otherKey;
    const rollout = encodeURIComponent(`${sampler}:0`);
    expect((await ask(server, `/rollouts/${rollout}`)).status).toBe(200);
    const probes: [string, string][] = [
      ['GET', `/runs/${model}`],
      ['GET', `/runs/${model}/metrics`],
      ['GET', `/sessions/${session}/rollouts`],
      ['DELETE', `/sessions/${session}/rollouts`],
      ['GET', `/rollouts/${rollout}`],
      ['DELETE', `/keys/${mine?.key_id}`],
    ];
    for (const [method, path] of probes) {
      expect([path, (await ask(server, path, key, method)).status]).toEqual([path, 404]);
    }
    expect((await ask(server, '/runs', key)).json).toEqual({ runs: [], total: 0 });
    expect((await ask(server, '/sessions', key)).json.sessions).toEqual([]);
    expect((await ask(server, '/rollouts', key)).json.sessions).toEqual([]);
    const others = (await ask(server, '/keys', key)).json.keys as { key_id: string }[];
    expect(others.map(({ key_id }) => key_id)).not.toContain(mine?.key_id);
    expect((await ask(server, '/overview', 'tml-wrong')).status).toBe(401);
    expect((await ask(server, `/sessions/${session}/rollouts`, server.key, 'DELETE')).status).toBe(204);
    expect((await ask(server, `/rollouts/${rollout}`)).status).toBe(404);
  });

  test('an owner revokes a key of theirs', async () => {
    const server = await open();
    const { key, secret } = await server.store.keys.create('ada', 'laptop');
    expect((await ask(server, '/overview', secret)).status).toBe(200);
    expect((await ask(server, `/keys/${key.id}`, server.key, 'DELETE')).status).toBe(204);
    expect((await ask(server, `/keys/${key.id}`, server.key, 'DELETE')).status).toBe(404);
    expect(await server.store.keys.find(secret)).toBeUndefined();
  });

  test('steps arrive on the live stream of their owner only', async () => {
    const server = await open();
    await server.app.http.listen({ port: 0, host: '127.0.0.1' });
    const { port } = server.app.http.server.address() as { port: number };
    const stop = new AbortController();
    const listen = async (key: string) => {
      const url = `http://127.0.0.1:${port}/console/api/events`;
      const answer = await fetch(url, { headers: { authorization: `Bearer ${key}` }, signal: stop.signal });
      expect(answer.headers.get('content-type')).toContain('text/event-stream');
      let seen = '';
      void (async () => {
        for await (const chunk of answer.body!) seen += Buffer.from(chunk).toString();
      })().catch(() => {});
      return () => seen;
    };
    const mine = await listen(server.key);
    const theirs = await listen(server.otherKey);
    const model = await server.model();
    await train(server, model, 1);
    await expect.poll(mine, { timeout: 10_000 }).toContain('event: metrics');
    await expect.poll(theirs, { timeout: 10_000 }).toContain('event: overview');
    expect(theirs()).not.toContain('event: metrics');
    const lines = mine().split('\n');
    const data = lines[lines.indexOf('event: metrics') + 1]?.slice('data: '.length) ?? '';
    expect(consoleEvents.metrics.parse(JSON.parse(data))).toMatchObject({ run_id: model, steps: [1] });
    stop.abort();
  });

  test('a server with open live streams stops', async () => {
    const server = await open();
    const url = await server.app.http.listen({ port: 0, host: '127.0.0.1' });
    const answer = await fetch(`${url}/console/api/events`, { headers: { 'x-api-key': server.key } });
    await server.app.http.close();
    expect(await answer.text()).toContain('the feed begins');
  });

  test('the overview describes the engine', async () => {
    const server = await open();
    const overview = ConsoleOverview.parse((await ask(server, '/overview')).json);
    expect(overview.device).toMatchObject({ backend: 'fake', precision: 'fp32' });
    expect(overview.base_models).toMatchObject([{ name: MODEL, state: 'loaded', weight_bytes: 1000 }]);
    expect(overview).toMatchObject({ base_weight_bytes: 1000, base_loads: 1, base_unloads: 0 });
  });

  test('pages show the console or how to build it, and unknown calls stay 404', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'anneal-console-'));
    await mkdir(join(folder, 'assets'));
    await writeFile(join(folder, 'index.html'), '<!doctype html><title>built</title>');
    await writeFile(join(folder, 'assets', 'app-1.js'), 'export {}');
    await writeFile(join(folder, 'secret.txt'), 'not an asset');
    const { store } = await open();
    const built = await buildApp({
      store,
      engine: new FakeEngine(),
      config: configOf({}),
      consoleFolder: folder,
    });
    const get = (url: string) => built.http.inject({ url });
    for (const url of ['/', '/runs', '/runs/a:train:0', '/playground', '/samples', '/account']) {
      const page = await get(url);
      expect([url, page.statusCode, page.body]).toEqual([url, 200, '<!doctype html><title>built</title>']);
      expect(page.headers['content-security-policy']).toContain("default-src 'none'");
      expect(page.headers['content-security-policy']).not.toContain('unsafe');
    }
    const asset = await get('/assets/app-1.js');
    expect([asset.statusCode, asset.headers['cache-control']]).toEqual([
      200,
      expect.stringContaining('immutable'),
    ]);
    for (const url of ['/assets/none.js', '/secret.txt', '/api/v1/none', '/none', '/console/api/none']) {
      const missing = await get(url);
      expect([url, missing.statusCode]).toEqual([url, 404]);
      expect(missing.headers['content-type']).toContain('application/json');
    }
    expect((await get('/assets/..%2fsecret.txt')).statusCode).toBe(403);
    await built.http.close();

    const unbuilt = await buildApp({ store, engine: new FakeEngine(), config: configOf({}) });
    const page = await unbuilt.http.inject({ url: '/' });
    expect([page.statusCode, page.body]).toEqual([503, expect.stringContaining('npm run build')]);
    await unbuilt.http.close();

    const off = await buildApp({
      store,
      engine: new FakeEngine(),
      config: configOf({ console: false }),
      consoleFolder: folder,
    });
    expect((await off.http.inject({ url: '/' })).statusCode).toBe(404);
    await off.http.close();
    await rm(folder, { recursive: true });
  });

  test('the console calls are in the OpenAPI document', async () => {
    const { store } = await open();
    const app = await buildApp({ store, engine: new FakeEngine(), config: configOf({ docs: true }) });
    const { paths } = (await app.http.inject({ url: '/openapi.json' })).json();
    expect(Object.keys(paths)).toEqual(
      expect.arrayContaining([
        '/console/api/overview',
        '/console/api/runs/{run_id}/metrics',
        '/console/api/events',
      ]),
    );
    await app.http.close();
  });
});

function configOf(more: object): ServerConfig {
  return ServerConfig.parse({ models: [{ name: MODEL, folder: '/models/tiny' }], docs: false, ...more });
}

import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { onEachDatabase, type TestServer } from './harness.ts';

const METRICS_KEY = 'a-key-for-prometheus';
const SAMPLE = /^(?<name>[a-zA-Z_:][\w:]*)(?:\{(?<labels>.*)\})? (?<value>[-+\w.]+)$/;

/** A scrape, by name and labels as written. Anything that is no line of the text format fails. */
async function scrape(server: TestServer, key = METRICS_KEY): Promise<Map<string, number>> {
  const headers = { authorization: `Bearer ${key}` };
  const response = await server.app.http.inject({ url: '/metrics', headers });
  expect(response.statusCode).toBe(200);
  expect(response.headers['content-type']).toMatch(/^text\/plain; version=0\.0\.4/);
  const values = new Map<string, number>();
  for (const line of response.body.split('\n')) {
    if (line === '' || line.startsWith('# HELP ') || line.startsWith('# TYPE ')) continue;
    const { name, labels, value } = SAMPLE.exec(line)?.groups ?? {};
    if (name === undefined) throw new Error(`no line of the format: ${line}`);
    const series = labels === undefined ? name : `${name}{${labels}}`;
    if (values.has(series)) throw new Error(`${series} is there twice`);
    values.set(series, Number(value));
  }
  return values;
}

async function work(server: TestServer): Promise<string> {
  const model = await server.model();
  await server.result(await server.forwardBackward(model, 1, { data: 2 }));
  await server.result(await server.optimStep(model, 2));
  await server.result(await server.sample(await server.sampler(), 0));
  return model;
}

const config = { metricsKey: METRICS_KEY };

onEachDatabase((open) => {
  test('values move with a training step and a sample', async () => {
    const server = await open({ config });
    const before = await scrape(server);
    expect(before.get('anneal_engine_up')).toBe(1);
    expect(before.get('anneal_trained_tokens_total')).toBe(0);
    expect(before.get('anneal_models_loaded')).toBe(0);
    await work(server);
    const after = await scrape(server);
    expect(Object.fromEntries(after)).toMatchObject({
      anneal_trained_tokens_total: 8,
      anneal_sampled_tokens_total: 4,
      anneal_models_loaded: 1,
      anneal_kv_cache_bytes: 640,
      anneal_kv_cache_limit_bytes: 1000,
      anneal_kv_cache_tokens: 5,
      anneal_prefix_cache_bytes: 64,
      anneal_prefix_cache_limit_bytes: 100,
      anneal_futures_pending: 0,
      anneal_step_duration_seconds_count: 1,
      'anneal_futures_ended_total{kind="forward_backward",state="done"}': 1,
      'anneal_futures_ended_total{kind="optim_step",state="done"}': 1,
      'anneal_futures_ended_total{kind="sample",state="done"}': 1,
      'anneal_future_duration_seconds_count{kind="sample"}': 1,
      'anneal_owner_trained_tokens_total{owner="ada"}': 8,
      'anneal_owner_steps_total{owner="ada"}': 1,
      'anneal_owner_prompt_tokens_total{owner="ada"}': 3,
      'anneal_owner_sampled_tokens_total{owner="ada"}': 4,
      'anneal_http_request_duration_seconds_count{method="POST",route="/api/v1/asample",status="200"}': 1,
    });
    expect(after.get('process_cpu_seconds_total')).toBeGreaterThan(0);
  });

  test('a request that waits is pending, one that fails is counted as failed', async () => {
    const server = await open({ config });
    const model = await server.model();
    let release = () => {};
    server.engine.gate = new Promise((resolve) => {
      release = resolve;
    });
    const promise = await server.forwardBackward(model, 1, { lossFn: 'ppo' });
    expect((await scrape(server)).get('anneal_futures_pending')).toBe(1);
    release();
    await server.result(promise);
    const after = await scrape(server);
    expect(after.get('anneal_futures_pending')).toBe(0);
    expect(after.get('anneal_futures_ended_total{kind="forward_backward",state="failed"}')).toBe(1);
  });

  test('an API key sees the use of its own owner, the key for metrics that of all', async () => {
    const server = await open({ config });
    await work(server);
    const owners = async (key: string) =>
      [...(await scrape(server, key)).keys()].filter((series) => series.includes('owner='));
    expect(await owners(METRICS_KEY)).toHaveLength(4);
    expect(await owners(server.key)).toHaveLength(4);
    expect(await owners(server.otherKey)).toEqual([]);
  });

  test('no key, a wrong one, and a key for metrics on other calls are refused', async () => {
    const server = await open({ config });
    for (const headers of [{}, { 'x-api-key': 'tml-wrong' }, { 'x-api-key': `${METRICS_KEY}x` }]) {
      expect((await server.app.http.inject({ url: '/metrics', headers })).statusCode).toBe(401);
    }
    expect((await server.get('/training_runs', { key: METRICS_KEY })).status).toBe(401);
  });

  test('labels hold routes, not ids or addresses', async () => {
    const server = await open({ config });
    const model = await work(server);
    await server.get(`/training_runs/${model}`);
    await server.app.http.inject({ url: '/wp-login.php?user=1' });
    const series = [...(await scrape(server)).keys()].join('\n');
    expect(series).toContain('route="/api/v1/training_runs/:run_id"');
    expect(series).toContain('method="(none)",route="(none)",status="404"');
    expect(series).not.toContain(model);
    expect(series).not.toContain('wp-login');
  });

  test('every query of the dashboard names a metric that is there', async () => {
    const server = await open({ config });
    await work(server);
    const there = new Set([...(await scrape(server)).keys()].map((series) => series.split('{', 1)[0]));
    const file = new URL('../../../deploy/grafana/dashboards/anneal.json', import.meta.url);
    const { panels }: { panels: { targets: { expr: string }[] }[] } = JSON.parse(readFileSync(file, 'utf8'));
    const named = panels.flatMap(({ targets }) =>
      targets.flatMap(({ expr }) => expr.match(/\b(?:anneal|nodejs|process)_\w+/g) ?? ['']),
    );
    expect(named.length).toBeGreaterThan(10);
    expect(named.filter((name) => !there.has(name))).toEqual([]);
  });

  test('docs/operations.md names every metric, and no other', async () => {
    const server = await open({ config });
    await work(server);
    const there = [...(await scrape(server)).keys()]
      .filter((series) => series.startsWith('anneal_'))
      .map((series) => series.split('{', 1)[0]?.replace(/_seconds_(?:bucket|sum|count)$/, '_seconds'));
    const text = readFileSync(new URL('../../../docs/operations.md', import.meta.url), 'utf8');
    const told = [...text.matchAll(/`(anneal_\w+)`/g)].map(([, name]) => name);
    expect(new Set(told)).toEqual(new Set(there));
  });

  test('two applications in one process count apart', async () => {
    const [busy, idle] = [await open({ config }), await open({ config })];
    await work(busy);
    expect((await scrape(idle)).get('anneal_step_duration_seconds_count')).toBe(0);
  });

  test('an engine that does not answer is told as a value', async () => {
    const server = await open({ config });
    server.engine.status = () => Promise.reject(new Error('dead'));
    expect((await scrape(server)).get('anneal_engine_up')).toBe(0);
  });

  test('off is off', async () => {
    const server = await open({ config: { metrics: 'off' } });
    const headers = { 'x-api-key': server.key };
    expect((await server.app.http.inject({ url: '/metrics', headers })).statusCode).toBe(404);
  });
});

import { expect, onTestFinished, test, vi } from 'vitest';
import { AdminClient, NotFoundError, RestClient, ServiceClient, TinkerError } from '../src/index.ts';
import { FAST, silent, start } from './setup.ts';

async function rest() {
  const { server, baseUrl, service } = await start();
  const client = new RestClient({ baseUrl, apiKey: 'tml-test', logger: silent, ...FAST });
  return { server, service, client, baseUrl };
}

async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const item of items) all.push(item);
  return all;
}

test('pages, and all items of all pages', async () => {
  const { server, client } = await rest();
  const page = await client.listTrainingRuns({ limit: 2, offset: 1 });
  expect(page.training_runs.map(({ training_run_id }) => training_run_id)).toEqual([
    'S:train:1',
    'S:train:2',
  ]);
  expect(page.cursor).toEqual({ offset: 1, limit: 2, total_count: 7 });
  const all = await collect(client.trainingRuns({ pageSize: 3 }));
  expect(all.map(({ training_run_id }) => training_run_id)).toEqual(
    [0, 1, 2, 3, 4, 5, 6].map((n) => `S:train:${n}`),
  );
  expect(await collect(client.sessions({ pageSize: 2 }))).toEqual(['a', 'b', 'c']);
  const found = await collect(client.searchAllSessions({ display_name: 'x' }));
  expect(found.map(({ session_id }) => session_id)).toEqual(['first', 'second']);
  expect(server.callsTo('/create_session')).toHaveLength(0);
});

test('checkpoint calls name kind and run in the path, unescaped', async () => {
  const { server, client } = await rest();
  const path = 'tinker://S:train:0/weights/a';
  await client.publishCheckpointFromTinkerPath(path);
  await client.unpublishCheckpointFromTinkerPath(path);
  await client.setCheckpointTtlFromTinkerPath(path, 3600);
  await client.setCheckpointTtlFromTinkerPath(path, null);
  await client.deleteCheckpointFromTinkerPath(path);
  const base = '/training_runs/S:train:0/checkpoints/weights/a';
  expect(server.calls.slice(1).map(({ method, path, body }) => [method, path, body.toString()])).toEqual([
    ['POST', `${base}/publish`, ''],
    ['DELETE', `${base}/publish`, ''],
    ['PUT', `${base}/ttl`, '{"ttl_seconds":3600}'],
    ['PUT', `${base}/ttl`, '{"ttl_seconds":null}'],
    ['DELETE', base, ''],
  ]);
});

test('what does not exist is a NotFoundError, at once', async () => {
  const { client } = await rest();
  const missing = client.getTrainingRun('S:train:99');
  await expect(missing).rejects.toBeInstanceOf(NotFoundError);
  await expect(missing).rejects.toMatchObject({
    status: 404,
    message: expect.stringContaining('GET /api/v1/training_runs'),
  });
});

test('paths and limits are checked before anything is sent', async () => {
  const { server, client } = await rest();
  expect(() => client.deleteCheckpointFromTinkerPath('tinker://a/b')).toThrow('three non-empty segments');
  expect(() => client.getExternalWeightsUrls('tinker://a/weights/b')).toThrow('is no export');
  expect(() => client.setCheckpointTtlFromTinkerPath('tinker://a/weights/b', 5)).toThrow('at least 3600');
  expect(() => client.copyWeights('tinker://a/weights/b')).toThrow('destinationProjectId');
  await expect(client.whoami()).rejects.toThrow(TinkerError);
  expect(server.calls.map(({ path }) => path)).toEqual(['/client/config']);
});

test('admin calls carry their queries', async () => {
  const { server, baseUrl } = await rest();
  const admin = new AdminClient({ baseUrl, apiKey: 'tml-test', logger: silent, ...FAST });
  await expect(admin.getBillingUsage(new Date(0), '2026-01-01T00:00:00Z')).rejects.toBeInstanceOf(
    NotFoundError,
  );
  expect(server.calls.at(-1)?.path).toBe('/billing/usage/events');
});

test('closing ends the session once, with the first reason, and refuses new work', async () => {
  const { server, service } = await rest();
  const model = await service.createLoraTrainingClient({ baseModel: 'base' });
  await Promise.all([service.close('errored', 'loss is NaN'), service.close('success')]);
  expect(server.finished).toEqual([{ reason: { type: 'errored' }, detail: 'loss is NaN' }]);
  expect(() => model.optimStep()).toThrow('closed');
  expect(() => service.createLoraTrainingClient({ baseModel: 'base' })).toThrow('closed');
});

test('closing is a future; a server that is gone makes it fail, not hang, and a block end with its own error', async () => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'Date'] });
  onTestFinished(() => void vi.useRealTimers());
  const warn = vi.fn();
  const calls: string[] = [];
  const fetch = async (url: string) => {
    const path = new URL(url).pathname.replace('/api/v1', '');
    calls.push(path);
    if (path.endsWith('/finish')) throw new TypeError('fetch failed');
    return Response.json({ session_id: 'S', sampling_session_id: 'S:sample:0' });
  };
  const options = { baseUrl: 'http://gone', apiKey: 'tml-test', logger: { ...silent, warn } };
  const open = async () => {
    const service = new ServiceClient({ ...options, fetch: fetch as typeof globalThis.fetch });
    await service.createSamplingClient({ baseModel: 'base' });
    return service;
  };
  const closing = (await open()).close('success');
  const failure = expect(closing).rejects.toMatchObject({ name: 'APIConnectionError' });
  await vi.advanceTimersByTimeAsync(15_000);
  await failure;
  const controller = new AbortController();
  const aborted = (await open()).close('success', undefined, { signal: controller.signal });
  controller.abort(new Error('no time'));
  await expect(aborted).rejects.toThrow('no time');
  const block = (async () => {
    await using _service = await open();
    throw new Error('mine');
  })();
  const mine = expect(block).rejects.toThrow(/^mine$/);
  await vi.advanceTimersByTimeAsync(15_000);
  await mine;
  expect(warn).toHaveBeenCalledWith(expect.stringContaining('was not closed'));
});

test('a session that could not be made needs no end', async () => {
  const { service } = await start({}, { apiKey: 'tml-wrong' });
  const creation = service.createSamplingClient({ baseModel: 'base' });
  const closing = service.close('errored');
  await expect(creation).rejects.toThrow('bad key');
  await closing;
});

test('a client that did nothing has nothing to close', async () => {
  const { server, service } = await rest();
  await service.close('success');
  expect(server.calls).toEqual([]);
});

test('telemetry is off unless asked for', async () => {
  const { server, service, baseUrl } = await rest();
  await service.createLoraTrainingClient({ baseModel: 'base' });
  await service.close('success');
  expect(server.callsTo('/telemetry')).toEqual([]);
  const talkative = new ServiceClient({
    baseUrl,
    apiKey: 'tml-test',
    telemetry: true,
    logger: silent,
    ...FAST,
  });
  await talkative.createLoraTrainingClient({ baseModel: 'base' });
  talkative.getTelemetry()?.log('step', { loss: 1 });
  await talkative.close('success');
  const events = server.bodiesOf('/telemetry').flatMap(({ events }) => events as { event: string }[]);
  expect(events.map(({ event }) => event)).toEqual(['SESSION_START', 'GENERIC_EVENT', 'SESSION_END']);
});

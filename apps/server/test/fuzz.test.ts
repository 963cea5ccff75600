/**
 * Every call that the server has with arbitrary input made from its own schema: whatever comes, no 5xx, nothing of one
 * owner in another's hands, nothing left behind.
 */
import { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { queryObjects } from 'node:v8';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Fuzzer, namesOf, pathOf, routesOf } from './api-fuzzer.ts';
import { FuzzEngine } from './fuzz-engine.ts';
import { closeServer, onEachDatabase, passBody, type TestServer } from './harness.ts';
import type { Names } from './schema-values.ts';

/** `ANNEAL_FUZZ_RUNS=10000` makes the long version. */
const RUNS = Number(process.env.ANNEAL_FUZZ_RUNS ?? 1000);
const LIMIT_MS = Math.max(600_000, RUNS * 600);
/** Objects that caches may still gain after the first requests; a leak of one object per request makes thousands. */
const WARM_UP = 100;
const CONFIG = { gapSeconds: 1, pollSeconds: 1, maxOpenSamplers: 8 };

/** Live objects of the kinds that requests and waiting are made of. */
function liveObjects(): Record<string, number> {
  const kinds = { Readable, AbortController, Map, Set };
  return Object.fromEntries(
    Object.entries(kinds).map(([name, kind]) => [name, Number(queryObjects(kind, { format: 'count' }))]),
  );
}

/** Each of these must have been accepted at least once. */
const PARTS = [/^POST \/api/, /^POST .*\/v1\/.*completions/, /^GET \/console/, /downloads/];
const MOST_MORE_RUNS = 10;

/** Ends every session of these keys and waits until nothing runs or waits. */
async function settle(server: TestServer, keys: string[]): Promise<void> {
  const { services } = server.app;
  for (const key of keys) {
    const { json } = await server.get('/sessions?limit=100000', { key });
    for (const id of json.sessions as string[]) {
      const ended = await server.post(`/sessions/${id}/finish`, { reason: { type: 'success' } }, { key });
      expect(ended.status).toBeLessThan(300);
    }
  }
  const held = async () => [
    services.futures.pending,
    services.sampling.pending,
    services.openAi.generator.pending,
    (await services.live.held()).length,
  ];
  for (let tries = 0; tries < 300 && (await held()).some((count) => count > 0); tries += 1) await sleep(100);
  expect(await held()).toEqual([0, 0, 0, 0]);
  await services.console.recorder.flush();
}

onEachDatabase((open) => {
  test(
    'no input makes a 5xx or leaves anything behind, and everything works afterwards',
    async () => {
      const server = await open({ config: CONFIG, engine: new FuzzEngine() });
      const fuzzer = new Fuzzer(server);
      expect(fuzzer.callCount).toBeGreaterThan(80);
      await fuzzer.run(Math.min(300, RUNS));
      const keys = [server.key, server.otherKey];
      await settle(server, keys);
      const before = liveObjects();
      await fuzzer.run(RUNS);
      await settle(server, keys);
      const after = liveObjects();
      for (const [kind, count] of Object.entries(after)) {
        expect(count - before[kind]!, `${kind}, of ${before[kind]}`).toBeLessThan(WARM_UP);
      }
      expect([...fuzzer.accepted.values()].reduce((sum, count) => sum + count, 0)).toBeGreaterThan(RUNS / 10);
      // Some calls are accepted so seldom that a run may go by without one.
      const unreached = () =>
        PARTS.filter((part) => ![...fuzzer.accepted.keys()].some((call) => part.test(call)));
      for (let more = 0; more < MOST_MORE_RUNS && unreached().length > 0; more += 1) await fuzzer.run(RUNS);
      expect(unreached()).toEqual([]);
      await settle(server, keys);
      const model = await server.model();
      await server.forwardBackward(model, 1);
      expect((await server.result(await server.optimStep(model, 2))).json.type).toBe('optim_step');
      for (const [path, list] of OWN_LISTS) {
        const { json } = await server.get(path, { key: server.otherKey, prefix: '' });
        expect(json[list], path).toEqual([]);
      }
      await closeServer(server);
    },
    LIMIT_MS,
  );

  test('what one key made is 404 to another on every call that reads it', async () => {
    const server = await open({ config: CONFIG, engine: new FuzzEngine() });
    const names = await namesOf(server);
    const external = { model_id: names.byField.model_id![0], seq_id: 2, path: 'a', ttl_seconds: 3600 };
    await server.result(await server.post('/save_weights_external', external));
    await server.result({
      status: 200,
      headers: {},
      raw: Buffer.of(),
      json: { request_id: names.byField.request_id![0] },
    });
    await server.app.services.console.recorder.flush();
    const reads = routesOf(server).filter(
      ({ method, url, schema }) => method === 'GET' && schema?.params && !url.includes('/downloads/'),
    );
    expect(reads.length).toBeGreaterThan(12);
    for (const route of reads) {
      const kind = route.url.includes('external_weights_urls') ? 'external_weights' : 'weights';
      const values = { ...first(names), kind, '*': names.byField['*']![1] };
      const path = pathOf(route, values, {});
      expect([path, (await server.get(path, { prefix: '' })).status]).toEqual([path, 200]);
      const other = await server.get(path, { prefix: '', key: server.otherKey });
      expect([path, other.status]).toEqual([path, 404]);
    }
    const { request_id, session_id, model_id, tinker_path } = first(names);
    const posts: [string, object][] = [
      ['/retrieve_future', { request_id }],
      ['/get_info', { model_id, type: 'get_info' }],
      ['/weights_info', { tinker_path }],
      ['/session_heartbeat', { session_id, type: 'session_heartbeat' }],
      ['/copy_weights', { source_path: tinker_path }],
    ];
    for (const [path, body] of posts) {
      expect([path, (await server.post(path, body)).status]).toEqual([path, 200]);
      expect([path, (await server.post(path, body, { key: server.otherKey })).status]).toEqual([path, 404]);
    }
  });

  test(
    'no bytes make a 5xx',
    async () => {
      const server = await open({ config: CONFIG });
      const model = await server.model();
      const valid = passBody(model, 1);
      const position = fc.nat(valid.length - 1);
      const edits = fc.array(fc.tuple(position, fc.nat(255)), { minLength: 1, maxLength: 8 });
      const mutated = fc.tuple(edits, position).map(([changes, cut]) => {
        const bytes = Uint8Array.from(valid);
        for (const [at, value] of changes) bytes[at] = value;
        return cut % 3 === 0 ? bytes.subarray(0, cut) : bytes;
      });
      const bodies = fc.oneof({ weight: 4, arbitrary: mutated }, fc.uint8Array({ maxLength: 200 }));
      await fc.assert(
        fc.asyncProperty(bodies, async (body) => {
          const answer = await server.post('/forward_backward', body);
          expect([200, 400, 404]).toContain(answer.status);
        }),
        { numRuns: RUNS / 2, endOnFailure: true },
      );
      expect((await server.get('/healthz')).status).toBe(200);
    },
    LIMIT_MS,
  );
});

/** Lists of what an owner has, and the field with the entries. */
const OWN_LISTS: [path: string, field: string][] = [
  ['/api/v1/training_runs', 'training_runs'],
  ['/api/v1/checkpoints', 'checkpoints'],
  ['/api/v1/sessions', 'sessions'],
  ['/console/api/runs', 'runs'],
  ['/console/api/sessions', 'sessions'],
];

/** The first known value of each field. */
function first(names: Names): Record<string, unknown> {
  return Object.fromEntries(Object.entries(names.byField).map(([field, [value = '']]) => [field, value]));
}

/** The document at /openapi.json: valid, and about exactly the calls that the server has. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createStore, LocalBlobs, openSqlite, type Store } from '@anneal/store';
import { Validator } from '@seriousme/openapi-schema-validator';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type App, buildApp, ServerConfig } from '../src/index.ts';
import { FakeEngine } from './fake-engine.ts';

interface Operation {
  summary?: string;
  tags?: string[];
  security?: object[];
}

/** Pages and files for people, and measurements for Prometheus, which the document does not describe. */
const FOR_OTHERS =
  /^GET \/(?:docs|openapi\.json|metrics|runs|playground|samples|account|assets|favicon\.svg)?(?:[/*]|$)/;

let folder: string;
let store: Store;
let app: App;
let document: { paths: Record<string, Record<string, Operation>> };

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'anneal-openapi-'));
  store = createStore(await openSqlite(join(folder, 'anneal.sqlite')), await LocalBlobs.open(folder));
  const config = ServerConfig.parse({ models: [{ name: 'tiny', folder: '/models/tiny' }] });
  app = await buildApp({ store, engine: new FakeEngine(), config });
  document = (await app.http.inject('/openapi.json')).json();
});

afterAll(async () => {
  await app.http.close();
  await store.close();
  await rm(folder, { recursive: true });
});

const described = () =>
  Object.entries(document.paths).flatMap(([path, calls]) =>
    Object.entries(calls).map(([method, operation]) => ({
      call: `${method.toUpperCase()} ${path}`,
      operation,
    })),
  );

test('it is a valid OpenAPI document', async () => {
  const result = await new Validator().validate(document);
  expect(result.errors ?? []).toEqual([]);
  expect(result.valid).toBe(true);
  const broken = { ...document, paths: { '/x': { get: { responses: 5 } } } };
  expect((await new Validator().validate(broken)).valid).toBe(false);
});

test('every call of the server is in it, and no other', () => {
  const calls = app.routes.flatMap(({ method, url }) =>
    [method].flat().map((verb) => `${verb} ${url.replace(/:(\w+)/g, '{$1}').replace('*', '{*}')}`),
  );
  const expected = calls.filter((call) => !call.startsWith('HEAD ') && !FOR_OTHERS.test(call));
  expect(expected.length).toBeGreaterThan(60);
  expect(
    described()
      .map(({ call }) => call)
      .sort(),
  ).toEqual([...new Set(expected)].sort());
});

test('each call says what it does and which group it is in; those without a key say that', () => {
  const silent = described().filter(
    ({ call, operation }) => !operation.summary && !call.includes(' /console/'),
  );
  expect(silent.map(({ call }) => call)).toEqual([]);
  expect(described().filter(({ operation }) => operation.tags?.length !== 1)).toEqual([]);
  const open = described().filter(({ operation }) => operation.security?.length === 0);
  expect(open.map(({ call }) => call.split('/').at(-1)).sort()).toEqual([
    'archive.tar',
    'healthz',
    'trace.json',
    '{file}',
  ]);
});

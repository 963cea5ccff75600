import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createStore, LocalBlobs, openSqlite } from '@anneal/store';
import { loadTokenizer } from '@anneal/tokenizer/node';
import { afterAll, expect, test } from 'vitest';
import { logOptions } from '../src/http/logging.ts';
import { buildApp, ServerConfig } from '../src/index.ts';
import { FakeEngine } from './fake-engine.ts';
import { closeServer, TestServer } from './harness.ts';

const FOLDER = join(import.meta.dirname, '../../../packages/tokenizer/fixtures/qwen2');
const PROMPT = 'Zanzibar sleeps';
const tokenizer = await loadTokenizer(FOLDER);
const dir = await mkdtemp(join(tmpdir(), 'anneal-logging-'));
const servers: TestServer[] = [];

afterAll(async () => {
  for (const server of servers) await closeServer(server);
  await rm(dir, { recursive: true, force: true });
});

/** Knows a tokenizer, so that text comes in too. */
class TextEngine extends FakeEngine {
  override async baseModels() {
    return (await super.baseModels()).map((model) => ({ ...model, folder: FOLDER }));
  }
}

type Line = Record<string, unknown> & { level: number; msg: string };

/** A server as it is started, whose log is kept: as text, and parsed. */
async function logged(): Promise<{ server: TestServer; text: () => string; lines: () => Line[] }> {
  const config = ServerConfig.parse({
    dataDir: dir,
    models: [{ name: 'tiny', folder: FOLDER }],
    pollSeconds: 1,
    logLevel: 'info',
  });
  const store = createStore(await openSqlite(':memory:'), await LocalBlobs.open(dir));
  const written: string[] = [];
  const stream = { write: (line: string) => void written.push(line) };
  const engine = new TextEngine();
  const app = await buildApp({ store, engine, config, logger: { ...logOptions(config), stream } });
  const [key, otherKey] = await Promise.all(
    ['ada', 'bob'].map(async (owner) => (await store.keys.create(owner, 'test')).secret),
  );
  const server = new TestServer({ app, store, engine, key: key!, otherKey: otherKey!, dir });
  servers.push(server);
  return {
    server,
    text: () => written.join(''),
    lines: () => written.map((line) => JSON.parse(line) as Line),
  };
}

test('no prompt, no tokens and no key come into the log of a session, whatever fails in it', async () => {
  const { server, text, lines } = await logged();
  const secretTokens = [811, 423, 977, 642];
  const model = await server.model();
  await server.result(await server.forwardBackward(model, 1, { tokens: secretTokens }));
  await server.result(await server.optimStep(model, 2));
  const prompt = { chunks: [{ type: 'encoded_text', tokens: secretTokens }] };
  const sampler = await server.sampler();
  await server.result(await server.sample(sampler, 0, { prompt, unknown_field: PROMPT }));
  const messages = [{ role: 'user', content: PROMPT }];
  const bearer = { authorization: `Bearer ${server.key}` };
  const chat = (body: object) =>
    server.app.http.inject({ method: 'POST', url: '/v1/chat/completions', headers: bearer, payload: body });
  await chat({ model: 'tiny', messages, max_tokens: 4 });
  await chat({ model: 'tiny', messages: PROMPT });
  server.engine.forwardBackward = () => Promise.reject(new Error('broken'));
  await server.result(await server.forwardBackward(model, 3, { tokens: secretTokens }));
  await server.post('/asample', { prompt: PROMPT });
  await server.post('/asample', `{"prompt": "${PROMPT}`);

  expect(lines().filter(({ msg }) => msg === 'request completed').length).toBeGreaterThan(8);
  expect(lines().some(({ level }) => level >= 50)).toBe(true);
  const log = text();
  expect(log).not.toContain(server.key);
  expect(log).not.toContain('Zanzibar');
  for (const tokens of [secretTokens, tokenizer.encode(PROMPT)]) {
    expect(log.replace(/\s/g, '')).not.toContain(tokens.slice(0, 2).join(','));
  }
});

test('each line of a request has the id that its answer names', async () => {
  const { server, lines } = await logged();
  const ids: unknown[] = [];
  for (const url of ['/api/v1/healthz', '/api/v1/training_runs', '/no/such/call', '/api/v1/%']) {
    const { headers } = await server.app.http.inject({ url });
    ids.push(headers['x-request-id']);
  }
  expect(new Set(ids).size).toBe(4);
  for (const id of ids) {
    expect(id).toMatch(/^[\w-]{36}$/);
    expect(lines().filter(({ reqId }) => reqId === id)).not.toEqual([]);
  }
  const completed = lines().filter(({ msg }) => msg === 'request completed');
  expect(completed.map(({ reqId }) => reqId)).toEqual(ids.slice(0, 3));
});

test('an id from before a proxy is kept, unless it could forge a line', async () => {
  const { server } = await logged();
  const idFor = async (given: string) =>
    (await server.app.http.inject({ url: '/api/v1/healthz', headers: { 'x-request-id': given } })).headers[
      'x-request-id'
    ];
  expect(await idFor('proxy-17')).toBe('proxy-17');
  for (const bad of ['a b', 'x'.repeat(65), '{"level":60}']) expect(await idFor(bad)).not.toBe(bad);
});

test('a signed link is no use to those who read the log', async () => {
  const { server, text } = await logged();
  await server.app.http.inject({ url: '/api/v1/healthz?signature=5ecret' });
  expect(text()).toContain('/api/v1/healthz');
  expect(text()).not.toContain('5ecret');
});

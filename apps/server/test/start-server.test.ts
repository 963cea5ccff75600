import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type RunningServer, ServerConfig, type ServerConfigInput, startServer } from '../src/index.ts';
import { FakeEngine } from './fake-engine.ts';

let dataDir: string;
const running: RunningServer[] = [];

beforeEach(async () => {
  dataDir = await mkdtemp(join(tmpdir(), 'anneal-start-'));
});
afterEach(async () => {
  for (const server of running.splice(0)) await server.close();
  await rm(dataDir, { recursive: true });
});

async function start(
  more: Partial<ServerConfigInput> = {},
  engine = new FakeEngine(),
): Promise<RunningServer> {
  const config = ServerConfig.parse({
    port: 0,
    dataDir,
    models: [{ name: 'tiny', folder: '/models/tiny' }],
    logLevel: 'silent',
    ...more,
  });
  const server = await startServer(config, { createEngine: async () => engine });
  running.push(server);
  return server;
}

const ask = (server: RunningServer, key: string) =>
  fetch(`${server.url}/api/v1/get_server_capabilities`, { headers: { 'X-API-Key': key } });

test('the first start makes a key, the next one does not', async () => {
  const first = await start();
  const key = first.createdKey ?? '';
  expect(key).toMatch(/^tml-/);
  expect((await ask(first, key)).status).toBe(200);
  await first.close();
  const second = await start();
  expect(second.createdKey).toBeUndefined();
  expect((await ask(second, key)).status).toBe(200);
});

test('a configured key is accepted, and none is made', async () => {
  const server = await start({ apiKey: 'tml-from-the-environment' });
  expect(server.createdKey).toBeUndefined();
  expect((await ask(server, 'tml-from-the-environment')).status).toBe(200);
  expect((await ask(server, 'tml-another-one')).status).toBe(401);
});

test('a second server on the same data folder is refused, and the first goes on', async () => {
  const first = await start({ apiKey: 'tml-first-server' });
  await expect(start()).rejects.toThrow(/in use by another Anneal server \(process \d+\)/);
  expect((await ask(first, 'tml-first-server')).status).toBe(200);
});

test('a taken port is refused with its number, and leaves nothing locked', async () => {
  const holder = createServer();
  await new Promise<void>((resolve) => holder.listen(0, '127.0.0.1', resolve));
  const { port } = holder.address() as { port: number };
  const engine = new FakeEngine();
  await expect(start({ port }, engine)).rejects.toThrow(`port ${port}`);
  expect(engine.closed).toBe(true);
  holder.close();
  expect((await start()).url).toContain('127.0.0.1');
});

test('an alias of a model that is not served is refused at start', async () => {
  const config = ServerConfig.parse({
    dataDir,
    models: [{ name: 'tiny', folder: '/models/tiny' }],
    aliases: { other: 'missing' },
  });
  await expect(startServer(config, { addonPath: '/none' })).rejects.toThrow('"missing"');
});

test('a shutdown frees the engine and can be asked for twice', async () => {
  const engine = new FakeEngine();
  const server = await start({}, engine);
  await Promise.all([server.close(), server.close()]);
  expect(engine.closed).toBe(true);
});

test('the documentation is generated from the schemas', async () => {
  const server = await start();
  const document = (await (await fetch(`${server.url}/openapi.json`)).json()) as {
    paths: Record<
      string,
      Record<string, { requestBody?: unknown; responses: Record<string, { content?: object }> }>
    >;
    components: { schemas: Record<string, unknown> };
  };
  expect(Object.keys(document.paths).length).toBeGreaterThan(35);
  expect(document.paths['/api/v1/asample']?.post?.requestBody).toBeDefined();
  expect(Object.keys(document.components.schemas)).toContain('SampleRequestInput');
  const chat = document.paths['/v1/chat/completions']?.post;
  const contents = Object.entries(chat?.responses ?? {}).map(([code, { content }]) => [
    code,
    Object.keys(content ?? {}),
  ]);
  const json = 'application/json';
  expect(contents).toEqual([
    ['200', [json, 'text/event-stream']],
    ['4XX', [json]],
    ['5XX', [json]],
  ]);
  const page = await fetch(`${server.url}/docs/`);
  expect([page.status, page.headers.get('content-type')]).toEqual([
    200,
    expect.stringContaining('text/html'),
  ]);
});

/** Two base models of different families with memory for one, through HTTP and the real engine. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ConsoleOverview } from '@anneal/types/console';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { prepareTensorflow } from '../../../packages/tensorflow/src/index.ts';
import { type RunningServer, ServerConfig, type ServerConfigInput, startServer } from '../src/index.ts';
import { PROTOBUF, passBody } from './harness.ts';

const FIXTURES = join(import.meta.dirname, '../../../packages/engine/fixtures/arch');
const KEY = 'tml-several-models';
const MODELS = ['llama3', 'deepseek_v3'];

let dataDir: string;
let server: RunningServer | undefined;
beforeEach(async () => {
  dataDir = await mkdtemp(join(tmpdir(), 'anneal-several-'));
});
afterEach(async () => {
  await server?.close();
  server = undefined;
  await rm(dataDir, { recursive: true });
});

async function start(more: Partial<ServerConfigInput> = {}): Promise<void> {
  const { addonPath } = await prepareTensorflow();
  const config = ServerConfig.parse({
    port: 0,
    dataDir,
    models: MODELS.map((name) => ({ name, folder: join(FIXTURES, name, 'model') })),
    precision: 'fp32',
    logLevel: 'silent',
    apiKey: KEY,
    journalSeconds: 86_400,
    ...more,
  });
  server = await startServer(config, { ...(addonPath ? { addonPath } : {}) });
}

type Json = Record<string, unknown>;

async function call(path: string, body?: object | Uint8Array): Promise<Json> {
  const isBytes = body instanceof Uint8Array;
  const response = await fetch(`${server!.url}${path}`, {
    method: body ? 'POST' : 'GET',
    headers: {
      'x-api-key': KEY,
      ...(body ? { 'content-type': isBytes ? PROTOBUF : 'application/json' } : {}),
    },
    ...(body ? { body: isBytes ? Buffer.from(body) : JSON.stringify(body) } : {}),
  });
  return (await response.json()) as Json;
}

async function result(promise: Json): Promise<Json> {
  for (;;) {
    const answer = await call('/api/v1/retrieve_future', { request_id: promise.request_id });
    if (answer.type !== 'try_again') return answer;
  }
}

async function session(): Promise<string> {
  return String((await call('/api/v1/create_session', { sdk_version: '0.38.0' })).session_id);
}

/** Two steps on each base in turns, with an OpenAI completion of the other base in between. */
async function train(): Promise<unknown[]> {
  const session_id = await session();
  const ids: string[] = [];
  for (const [model_seq_id, base_model] of MODELS.entries()) {
    const lora_config = { rank: 4, seed: 1 };
    const created = await result(
      await call('/api/v1/create_model', { session_id, model_seq_id, base_model, lora_config }),
    );
    ids.push(String(created.model_id));
  }
  const seen: unknown[] = [];
  for (const step of [0, 1]) {
    for (const [i, model_id] of ids.entries()) {
      const passed = await result(
        await call('/api/v1/forward_backward', passBody(model_id, 2 * step + 1, { tokens: [5, 6, 7, 8] })),
      );
      seen.push((passed.metrics as Record<string, number>)['loss:sum']);
      const prompt = [5, 6, 7];
      const other = await call('/v1/completions', {
        model: MODELS[1 - i],
        prompt,
        max_tokens: 4,
        temperature: 0,
      });
      seen.push(other.choices);
      const adam_params = { learning_rate: 0.01 };
      const stepped = await result(
        await call('/api/v1/optim_step', { model_id, seq_id: 2 * step + 2, adam_params, type: 'optim_step' }),
      );
      seen.push(stepped.metrics);
    }
  }
  return seen;
}

async function overview(): Promise<ConsoleOverview> {
  return ConsoleOverview.parse(await call('/console/api/overview'));
}

// It compiles what both families run, twice.
const PATIENCE = { timeout: 300_000 };

test('results are those of a server with room for both, and what is loaded is told', PATIENCE, async () => {
  await start({ loadAtStart: 'all' });
  const { base_models } = await overview();
  expect(base_models.map(({ name, state }) => [name, state])).toEqual(MODELS.map((name) => [name, 'loaded']));
  const wanted = await train();
  expect(wanted.filter((value) => typeof value === 'number')).toHaveLength(4);
  await server!.close();
  await rm(dataDir, { recursive: true });

  // In fp32 each of the fixtures takes less than one MiB, and both together more.
  await start({ modelMemoryMiB: 1 });
  expect((await overview()).base_models.map(({ state }) => state)).toEqual(['loaded', 'unloaded']);
  const capabilities = await call('/api/v1/get_server_capabilities');
  expect((capabilities.supported_models as Json[]).map(({ model_name }) => model_name)).toEqual(MODELS);
  expect(await train()).toEqual(wanted);
  // The engine is looked at now and then.
  const unloads = async () => expect((await overview()).base_unloads).toBeGreaterThan(3);
  await vi.waitFor(unloads, { timeout: 60_000, interval: 200 });
  const after = await overview();
  expect(after.base_weight_bytes).toBeLessThanOrEqual(2 ** 20);
  const metrics = await (await fetch(`${server!.url}/metrics`, { headers: { 'x-api-key': KEY } })).text();
  expect(metrics).toMatch(/^anneal_base_models_loaded 1$/m);
});

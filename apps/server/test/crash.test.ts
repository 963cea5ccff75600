/** Kills the server at random moments under load: nothing acknowledged may be lost, and no future may hang. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { passBody } from './harness.ts';

/** `ANNEAL_CRASH_KILLS=50` makes the long version. */
const KILLS = Number(process.env.ANNEAL_CRASH_KILLS ?? 5);
const KEY = 'tml-fake-server-key';

let dataDir: string;
let server: ChildProcess;
let url = '';

beforeAll(async () => {
  dataDir = await mkdtemp(join(tmpdir(), 'anneal-crash-'));
  await start();
});
afterAll(async () => {
  server.kill('SIGKILL');
  await rm(dataDir, { recursive: true, force: true });
});

async function start(): Promise<void> {
  const script = join(import.meta.dirname, 'fake-server.ts');
  const args = [
    '--conditions=@anneal/source',
    '--disable-warning=ExperimentalWarning',
    script,
    '0',
    dataDir,
    '0',
  ];
  server = spawn(process.execPath, args, {
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { ...process.env, LOG_LEVEL: 'fatal' },
  });
  const [line] = await once(createInterface({ input: server.stdout! }), 'line');
  url = String(line);
}

async function kill(): Promise<void> {
  const exited = once(server, 'exit');
  server.kill('SIGKILL');
  await exited;
}

interface Reply {
  status: number;
  json: Record<string, unknown>;
}

async function post(path: string, body: unknown): Promise<Reply> {
  const bytes = body instanceof Uint8Array;
  const response = await fetch(`${url}/api/v1${path}`, {
    method: 'POST',
    headers: { 'X-API-Key': KEY, 'content-type': bytes ? 'application/x-protobuf' : 'application/json' },
    body: bytes ? Buffer.from(body) : JSON.stringify(body),
  });
  return { status: response.status, json: (await response.json()) as Record<string, unknown> };
}

async function get(path: string): Promise<Reply> {
  const response = await fetch(`${url}/api/v1${path}`, { headers: { 'X-API-Key': KEY } });
  return { status: response.status, json: (await response.json()) as Record<string, unknown> };
}

async function retrieve(requestId: unknown): Promise<Reply> {
  for (;;) {
    const reply = await post('/retrieve_future', { request_id: requestId });
    if (reply.status !== 408) return reply;
  }
}

/** What the server has promised or confirmed. */
interface Ledger {
  promised: Set<string>;
  results: Map<string, string>;
  models: Set<string>;
  checkpoints: Set<string>;
}

/** One client at work, until its server dies. */
async function work(session: string, number: number, ledger: Ledger): Promise<void> {
  const lora_config = { rank: 4, seed: 1 };
  const create = { session_id: session, model_seq_id: number, base_model: 'tiny', lora_config };
  const made = await submit('/create_model', create, ledger);
  const model = String(made.model_id);
  ledger.models.add(model);
  const sampling = { session_id: session, sampling_session_seq_id: number, base_model: 'tiny' };
  const sampler = String((await post('/create_sampling_session', sampling)).json.sampling_session_id);
  const prompt = { chunks: [{ type: 'encoded_text', tokens: [5, 6] }] };
  for (let seq = 1; ; seq += 3) {
    const pass = submit('/forward_backward', passBody(model, seq), ledger);
    const step = submit('/optim_step', { model_id: model, seq_id: seq + 1, adam_params: {} }, ledger);
    const sample = { sampling_session_id: sampler, seq_id: seq, prompt, sampling_params: { max_tokens: 2 } };
    const save = { model_id: model, seq_id: seq + 2, path: `step-${seq}` };
    const all = [submit('/save_weights', save, ledger), pass, step, submit('/asample', sample, ledger)];
    const path = (await Promise.all(all))[0]?.path;
    if (typeof path === 'string') ledger.checkpoints.add(path);
  }
}

async function submit(path: string, body: unknown, ledger: Ledger): Promise<Record<string, unknown>> {
  const promise = await post(path, body);
  expect(promise.status).toBe(200);
  const id = String(promise.json.request_id);
  ledger.promised.add(id);
  const { status, json } = await retrieve(id);
  if (status === 200) ledger.results.set(id, JSON.stringify(json));
  return json;
}

async function verify(ledger: Ledger): Promise<void> {
  for (const id of ledger.promised) {
    const { status, json } = await retrieve(id);
    expect([200, 410]).toContain(status);
    const known = ledger.results.get(id);
    if (known !== undefined) expect(JSON.stringify(json)).toBe(known);
  }
  for (const model of ledger.models) expect((await get(`/training_runs/${model}`)).status).toBe(200);
  const session = String((await post('/create_session', { sdk_version: '0.38.0' })).json.session_id);
  let seq = 0;
  for (const path of [...ledger.checkpoints].slice(-5)) {
    const load = { session_id: session, model_seq_id: seq, path, optimizer: true };
    const loaded = await retrieve((await post('/load_weights', load)).json.request_id);
    expect(loaded.json).toMatchObject({ path });
    seq += 1;
  }
}

test(
  `${KILLS} kills lose nothing that was acknowledged and leave no future hanging`,
  async () => {
    let checked = 0;
    for (let round = 0; round < KILLS; round += 1) {
      const ledger: Ledger = {
        promised: new Set(),
        results: new Map(),
        models: new Set(),
        checkpoints: new Set(),
      };
      const session = String((await post('/create_session', { sdk_version: '0.38.0' })).json.session_id);
      const clients = [0, 1, 2].map((number) => work(session, number, ledger).catch(() => {}));
      await delay(200 + Math.random() * 800);
      await kill();
      await Promise.all(clients);
      await start();
      await verify(ledger);
      checked += ledger.promised.size;
    }
    expect(checked).toBeGreaterThan(KILLS);
  },
  60_000 + KILLS * 20_000,
);

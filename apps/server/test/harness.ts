/** Starts the server in this process over fresh databases, and calls it as a client would. */
import { randomUUID } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createStore, LocalBlobs, openPostgres, openSqlite, type Store } from '@anneal/store';
import { encodeForwardBackwardRequest } from '@anneal/types';
import { afterAll, beforeAll, describe } from 'vitest';
import { findPostgres, startPostgres, type TestPostgres } from '../../../packages/store/test/postgres.ts';
import { type App, buildApp, ServerConfig, type ServerConfigInput } from '../src/index.ts';
import type { Tracing } from '../src/telemetry/tracing.ts';
import { FakeEngine } from './fake-engine.ts';

export const MODEL = 'tiny';
export const PROTOBUF = 'application/x-protobuf';

export interface Answer {
  status: number;
  headers: Record<string, string | string[] | number | undefined>;
  /** The body, where it is JSON. */
  json: Record<string, unknown>;
  raw: Buffer;
}

export interface CallOptions {
  key?: string;
  /** What the path comes after; default `/api/v1`. */
  prefix?: string;
  headers?: Record<string, string>;
}

export class TestServer {
  readonly app: App;
  readonly store: Store;
  readonly engine: FakeEngine;
  readonly key: string;
  readonly otherKey: string;
  readonly dir: string;

  constructor(parts: Pick<TestServer, 'app' | 'store' | 'engine' | 'key' | 'otherKey' | 'dir'>) {
    this.app = parts.app;
    this.store = parts.store;
    this.engine = parts.engine;
    this.key = parts.key;
    this.otherKey = parts.otherKey;
    this.dir = parts.dir;
  }

  async call(method: string, path: string, body?: unknown, options: CallOptions = {}): Promise<Answer> {
    const isBytes = body instanceof Uint8Array;
    const type = isBytes ? PROTOBUF : 'application/json';
    const payload = isBytes || body === undefined ? body : toJson(body);
    const response = await this.app.http.inject({
      method: method as 'GET',
      url: `${options.prefix ?? '/api/v1'}${path}`,
      headers: {
        'x-api-key': options.key ?? this.key,
        ...(body === undefined ? {} : { 'content-type': type }),
        ...options.headers,
      },
      ...(payload === undefined
        ? {}
        : { payload: isBytes ? Buffer.from(payload as Uint8Array) : (payload as string) }),
    });
    const raw = response.rawPayload;
    const isJson = String(response.headers['content-type'] ?? '').startsWith('application/json');
    return {
      status: response.statusCode,
      headers: response.headers,
      json: isJson && raw.length > 0 ? JSON.parse(raw.toString()) : {},
      raw,
    };
  }

  post(path: string, body?: unknown, options?: CallOptions): Promise<Answer> {
    return this.call('POST', path, body, options);
  }

  get(path: string, options?: CallOptions): Promise<Answer> {
    return this.call('GET', path, undefined, options);
  }

  async session(key = this.key): Promise<string> {
    const { json } = await this.post('/create_session', { sdk_version: '0.38.0' }, { key });
    return String(json.session_id);
  }

  /** A model in a new session, ready for requests. */
  async model(
    options: { key?: string; session?: string; seq?: number; request?: object } = {},
  ): Promise<string> {
    const key = options.key ?? this.key;
    const session = options.session ?? (await this.session(key));
    const request = {
      session_id: session,
      model_seq_id: options.seq ?? 0,
      base_model: MODEL,
      lora_config: { rank: 4, seed: 1 },
      ...options.request,
    };
    const answer = await this.post('/create_model', request, { key });
    const result = await this.result(answer, { key });
    if (result.json.model_id === undefined) throw new Error(JSON.stringify([answer.json, result.json]));
    return String(result.json.model_id);
  }

  /** Waits for what a submission promised. */
  async result(promise: Answer, options: CallOptions & { metadata?: boolean } = {}): Promise<Answer> {
    if (promise.status !== 200) return promise;
    const body = { request_id: promise.json.request_id, allow_metadata_only: options.metadata ?? false };
    for (;;) {
      const answer = await this.post('/retrieve_future', body, options);
      if (answer.status !== 408) return answer;
    }
  }

  forwardBackward(model: string, seq: number, options: PassOptions = {}): Promise<Answer> {
    return this.post('/forward_backward', passBody(model, seq, options), options);
  }

  optimStep(model: string, seq: number, lr = 0.1, options: CallOptions = {}): Promise<Answer> {
    const body = { model_id: model, seq_id: seq, adam_params: { learning_rate: lr }, type: 'optim_step' };
    return this.post('/optim_step', body, options);
  }

  /** The loss of a fixed batch, which changes with each step. */
  async loss(model: string, seq: number): Promise<number> {
    const answer = await this.result(await this.forwardBackward(model, seq, { forwardOnly: true }));
    return (answer.json.metrics as Record<string, number>)['loss:sum'] ?? Number.NaN;
  }

  async saveState(model: string, seq: number, name: string, more: object = {}): Promise<string> {
    const body = { model_id: model, seq_id: seq, path: name, ...more };
    const answer = await this.result(await this.post('/save_weights', body));
    if (answer.json.path === undefined) throw new Error(JSON.stringify(answer.json));
    return String(answer.json.path);
  }

  /** A sampler on the base model. */
  async sampler(
    options: { key?: string; session?: string; seq?: number; path?: string } = {},
  ): Promise<string> {
    const key = options.key ?? this.key;
    const session = options.session ?? (await this.session(key));
    const from = options.path === undefined ? { base_model: MODEL } : { model_path: options.path };
    const body = { session_id: session, sampling_session_seq_id: options.seq ?? 0, ...from };
    const answer = await this.post('/create_sampling_session', body, { key });
    if (answer.status !== 200) throw new Error(JSON.stringify(answer.json));
    return String(answer.json.sampling_session_id);
  }

  sample(
    sampler: string,
    seq: number | bigint,
    request: object = {},
    options?: CallOptions,
  ): Promise<Answer> {
    const body = {
      sampling_session_id: sampler,
      seq_id: seq,
      num_samples: 1,
      prompt: { chunks: [{ type: 'encoded_text', tokens: [5, 6, 7] }] },
      sampling_params: { max_tokens: 4, seed: 1 },
      ...request,
    };
    return this.post('/asample', body, options);
  }
}

interface PassOptions extends CallOptions {
  tokens?: number[];
  forwardOnly?: boolean;
  data?: number;
  lossFn?: 'cross_entropy' | 'ppo';
}

export function passBody(model: string, seq: number, options: PassOptions = {}): Uint8Array {
  const tokens = options.tokens ?? [5, 6, 7, 8];
  const data = Array.from({ length: options.data ?? 1 }, () => ({
    model_input: { chunks: [{ type: 'encoded_text' as const, tokens }] },
    loss_fn_inputs: {
      target_tokens: { data: tokens, dtype: 'int64' as const, shape: [tokens.length] },
      weights: { data: tokens.map(() => 1), dtype: 'float32' as const, shape: [tokens.length] },
    },
  }));
  return encodeForwardBackwardRequest({
    model_id: model,
    seq_id: seq,
    input: { data, loss_fn: options.lossFn ?? 'cross_entropy' },
    forward_only: options.forwardOnly ?? false,
  });
}

/** JSON with every digit of large integers. */
function toJson(body: unknown): string {
  const text = JSON.stringify(body, (_key, value) => (typeof value === 'bigint' ? `@${value}@` : value));
  return text.replace(/"@(\d+)@"/g, '$1');
}

export interface OpenOptions {
  config?: Partial<ServerConfigInput>;
  engine?: FakeEngine;
  tracing?: Tracing | undefined;
  /** Opens again what an earlier server used. */
  like?: TestServer;
}

export type OpenServer = (options?: OpenOptions) => Promise<TestServer>;

const postgresBin = await findPostgres();
const databases = postgresBin ? ['SQLite', 'PostgreSQL'] : ['SQLite'];
if (!postgresBin) console.warn('PostgreSQL is not installed: the server is tested on SQLite only');

/** Defines tests that run on each database that this machine has. */
export function onEachDatabase(define: (open: OpenServer) => void): void {
  describe.each(databases)('on %s', (kind) => {
    let root: string;
    let postgres: TestPostgres | undefined;
    const urls = new Map<string, string>();
    const open: TestServer[] = [];

    beforeAll(async () => {
      root = await mkdtemp(join(tmpdir(), 'anneal-server-'));
      if (kind === 'PostgreSQL' && postgresBin) postgres = await startPostgres(postgresBin);
    });
    afterAll(async () => {
      for (const server of open) await closeServer(server);
      await postgres?.stop();
      await rm(root, { recursive: true, force: true });
    });

    define(async (options = {}) => {
      const dir = options.like?.dir ?? join(root, randomUUID());
      const url = urls.get(dir) ?? (postgres ? await postgres.newDatabase() : undefined);
      if (url) urls.set(dir, url);
      const server = await openServer(dir, url, options);
      open.push(server);
      return server;
    });
  });
}

async function openServer(dir: string, url: string | undefined, options: OpenOptions): Promise<TestServer> {
  const blobs = await LocalBlobs.open(dir);
  const database = url ? await openPostgres(url) : await openSqlite(join(dir, 'anneal.sqlite'));
  const store = createStore(database, blobs);
  if (options.like) await store.futures.failUnfinished('The server was restarted');
  const engine = options.engine ?? new FakeEngine();
  const config = ServerConfig.parse({
    dataDir: dir,
    models: [{ name: MODEL, folder: '/models/tiny' }],
    docs: false,
    pollSeconds: 1,
    ...options.config,
  });
  const app = await buildApp({ store, engine, config, tracing: options.tracing });
  const { like } = options;
  const key = like?.key ?? (await store.keys.create('ada', 'test')).secret;
  const otherKey = like?.otherKey ?? (await store.keys.create('bob', 'test')).secret;
  return new TestServer({ app, store, engine, key, otherKey, dir });
}

const closed = new WeakSet<TestServer>();

/** Ends a server as a shutdown does; `crash` leaves everything as a killed process would. */
export async function closeServer(server: TestServer, how: 'shutdown' | 'crash' = 'shutdown'): Promise<void> {
  if (closed.has(server)) return;
  closed.add(server);
  await server.app.http.close();
  await server.app.services.sampling.close(0);
  if (how === 'shutdown') await server.app.services.live.close(5000);
  await server.store.close();
}

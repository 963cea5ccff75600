/**
 * A small server that behaves as the API's description says: ordered execution, promises, long polls, protobuf results.
 * Its arithmetic is made up and simple, so that tests can say what must come out: the logprob of target t at position i
 * is -(t + i / 10), a sample echoes its prompt.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import {
  type DecodedForwardBackwardRequest,
  decodeForwardBackwardRequest,
  encodeForwardBackwardOutput,
  encodeSampleResponse,
  SampleRequest,
  wire,
} from '@anneal/types';

interface Result {
  type: 'json' | 'protobuf';
  body: string | Uint8Array;
}

/** What one request of a model did, in the order of execution. */
export interface Executed {
  model: string;
  seqId: number;
  what: string;
  datums?: number;
}

interface Reply {
  status: number;
  body?: unknown;
  /** Sent as it is. */
  raw?: Result;
}

interface Waiting {
  requestId: string;
  what: string;
  run: () => Result;
}

/** How the server differs from its defaults. */
export interface ReferenceOptions {
  clientConfig?: Record<string, unknown>;
  dynamicConfig?: Record<string, unknown>;
  /** Milliseconds for which a poll without a result is held. */
  holdMs?: number;
  /** Results of more bytes are announced before they are sent. */
  inlineBytes?: number;
  /** Milliseconds before a sample is done. */
  sampleMs?: number;
  /** Runs what comes again a second time, as a server must not. */
  forgetful?: boolean;
  /** Milliseconds between taking a sample's request and answering it. */
  promiseMs?: number;
}

const json = (value: unknown): Result => ({ type: 'json', body: JSON.stringify(value) });
const protobuf = (body: Uint8Array): Result => ({ type: 'protobuf', body });
const failed = (error: string): Result => json({ error, category: 'user' });

/** Logprob that the server gives for a target token. */
export const logprobOf = (token: number, position: number) => -(token + position / 10);

function runPass(request: DecodedForwardBackwardRequest): Result {
  const rows = request.data.map(({ inputs }) => {
    const { target_tokens: targets, weights } = inputs;
    const tokens = Array.from(targets!.data as ArrayLike<number | bigint>, Number);
    const logprobs = Float32Array.from(tokens, logprobOf);
    const loss = -logprobs.reduce((sum, lp, index) => sum + lp * Number(weights?.data[index] ?? 1), 0);
    return { logprobs: { dtype: 'float32' as const, shape: targets!.shape, data: logprobs }, loss };
  });
  return protobuf(
    encodeForwardBackwardOutput({
      outputs: rows.map(({ logprobs }) => ({ logprobs })),
      metrics: {
        'loss:sum': rows.reduce((sum, { loss }) => sum + loss, 0),
        'tokens:mean': rows.reduce((sum, { logprobs }) => sum + logprobs.data.length, 0) / rows.length,
        'clock_cycle:unique': request.seqId ?? 0,
      },
    }),
  );
}

export class ReferenceServer {
  readonly executed: Executed[] = [];
  /** The prompt of each sample (sampler and number) that was drawn. */
  readonly sampled = new Map<string, number[]>();
  /** Numbers that came again with another request than before. */
  readonly collisions: string[] = [];
  readonly cancelled: string[] = [];
  readonly finished: unknown[] = [];
  readonly calls: { method: string; path: string; headers: IncomingMessage['headers']; body: Buffer }[] = [];
  /** Most samples and sockets at once. */
  peakSockets = 0;
  peakPolls = 0;
  /** Most training requests whose bodies were being received at once. */
  peakTrainingRequests = 0;
  /** Forgets a request's result: its polls answer 410. */
  readonly gone = new Set<string>();
  readonly #options: ReferenceOptions;
  readonly #server: Server;
  readonly #bodies = new Map<string, string>();
  readonly #results = new Map<string, Result>();
  readonly #waiters = new Map<string, Set<() => void>>();
  readonly #queues = new Map<string, { next: number; waiting: Map<number, Waiting> }>();
  readonly #gradients = new Map<string, number>();
  readonly #samplers = new Map<string, { base_model: string; model_path?: string }>();
  #sockets = 0;
  #trainingRequests = 0;
  #polls = 0;
  #sessions = 0;

  constructor(options: ReferenceOptions = {}) {
    this.#options = options;
    this.#server = createServer((request, response) => {
      this.#serve(request)
        .catch((error) => reply(500, { detail: String(error) }))
        .then((answer) => write(response, answer));
    });
    this.#server.on('connection', (socket) => {
      this.#sockets++;
      this.peakSockets = Math.max(this.peakSockets, this.#sockets);
      socket.on('close', () => this.#sockets--);
    });
  }

  async listen(): Promise<string> {
    await new Promise<void>((resolve) => this.#server.listen(0, '127.0.0.1', resolve));
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  callsTo(path: string) {
    return this.calls.filter((call) => call.path === path);
  }

  bodiesOf(path: string): Record<string, unknown>[] {
    return this.callsTo(path).map(({ body }) => JSON.parse(body.toString()));
  }

  async #serve(request: IncomingMessage): Promise<Reply> {
    const isTraining = request.url?.endsWith('/forward_backward');
    if (isTraining) this.peakTrainingRequests = Math.max(this.peakTrainingRequests, ++this.#trainingRequests);
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    if (isTraining) this.#trainingRequests--;
    const body = Buffer.concat(chunks);
    const { pathname, searchParams } = new URL(request.url ?? '/', 'http://host');
    const path = pathname.replace('/api/v1', '');
    this.calls.push({ method: request.method ?? '', path, headers: request.headers, body });
    if (request.headers['x-api-key'] !== 'tml-test') return reply(401, { detail: 'bad key' });
    if (path === '/forward_backward') return this.#forwardBackward(body);
    const fields = body.length > 0 ? parseLossless(body.toString()) : {};
    if (path === '/retrieve_future') return this.#retrieve(fields);
    if (path === '/retrieve_futures') return this.#retrieveMany(fields);
    if (path === '/asample') {
      const promise = this.#sample(fields, body.toString());
      await new Promise((resolve) => setTimeout(resolve, this.#options.promiseMs ?? 0));
      return promise;
    }
    return this.#plain(`${request.method} ${path}`, fields, searchParams);
  }

  #plain(call: string, fields: Record<string, unknown>, query: URLSearchParams): Reply {
    const session = String(fields.session_id);
    switch (call) {
      case 'POST /client/config':
        return reply(200, this.#options.clientConfig ?? {});
      case 'POST /client/dynamic_config':
        return reply(200, this.#options.dynamicConfig ?? {});
      case 'POST /create_session':
        return reply(200, { session_id: `S${this.#sessions++}`, type: 'create_session' });
      case 'POST /create_model': {
        const model_id = `${session}:train:${fields.model_seq_id}`;
        return this.#promise(`${model_id}:create`, model_id, json({ model_id, type: 'create_model' }));
      }
      case 'POST /get_info':
        return reply(200, {
          model_id: fields.model_id,
          model_data: { model_name: 'base', tokenizer_id: null, arch: 'llama' },
          is_lora: true,
          lora_rank: 8,
          model_name: null,
        });
      case 'POST /optim_step':
        return this.#enqueue(fields, 'optim_step', (model) => {
          const gradient = this.#gradients.get(model) ?? 0;
          this.#gradients.set(model, 0);
          return json({ metrics: { gradient }, type: 'optim_step' });
        });
      case 'POST /save_weights':
        return this.#enqueue(fields, 'save_weights', (model) =>
          fields.path === 'taken'
            ? failed('the name "taken" exists')
            : json({ path: `tinker://${model}/weights/${fields.path}`, type: 'save_weights' }),
        );
      case 'POST /save_weights_for_sampler':
        return this.#enqueue(fields, 'save_weights_for_sampler', (model) => {
          if (fields.path) return json({ path: `tinker://${model}/sampler_weights/${fields.path}` });
          const id = `${model.split(':')[0]}:sample:${fields.sampling_session_seq_id}`;
          this.#samplers.set(id, { base_model: 'base' });
          return json({ sampling_session_id: id });
        });
      case 'POST /save_weights_external':
        return this.#enqueue(fields, 'save_weights_external', (model) =>
          json({ path: `tinker://${model}/external_weights/${fields.path}`, size_bytes: 3 }),
        );
      case 'POST /load_weights':
        return this.#load(fields);
      case 'POST /create_sampling_session': {
        const id = `${session}:sample:${fields.sampling_session_seq_id}`;
        this.#samplers.set(id, { base_model: String(fields.base_model ?? 'base of checkpoint') });
        return reply(200, { sampling_session_id: id, type: 'create_sampling_session' });
      }
      case 'POST /join_sampling_session':
        return reply(200, { client_counter: 7, type: 'join_sampling_session' });
      case 'POST /cancel_future':
        this.cancelled.push(String(fields.request_id));
        return reply(204);
      default:
        return this.#listing(call, fields, query);
    }
  }

  #listing(call: string, fields: Record<string, unknown>, query: URLSearchParams): Reply {
    const [limit, offset] = [Number(query.get('limit') ?? 20), Number(query.get('offset') ?? 0)];
    const runs = Array.from({ length: 7 }, (_, index) => ({
      training_run_id: `S:train:${index}`,
      base_model: 'base',
      model_owner: 'me',
      is_lora: true,
      lora_rank: null,
      last_request_time: '2026-01-01T00:00:00.123456Z',
    }));
    if (call === 'POST /telemetry') return reply(200, { status: 'accepted' });
    if (call === 'GET /get_server_capabilities') {
      return reply(200, { supported_models: [{ model_name: 'base', max_context_length: 64 }] });
    }
    if (call === 'GET /training_runs') {
      const cursor = { offset, limit, total_count: runs.length };
      return reply(200, { training_runs: runs.slice(offset, offset + limit), cursor });
    }
    if (call === 'GET /sessions') {
      return reply(200, { sessions: ['a', 'b', 'c'].slice(offset, offset + limit) });
    }
    if (call === 'POST /sessions/search') return reply(200, searchPage(fields.cursor !== undefined));
    if (call.startsWith('GET /samplers/')) {
      const sampler = this.#samplers.get(call.slice('GET /samplers/'.length));
      return sampler ? reply(200, { sampler_id: 'x', ...sampler }) : reply(404, { detail: 'no' });
    }
    if (call.endsWith('/finish')) {
      this.finished.push(fields);
      return reply(204);
    }
    if (/^(DELETE|POST|PUT) \/training_runs\/S:train:0\/checkpoints\/weights\/a/.test(call)) {
      return reply(204);
    }
    return reply(404, { detail: `no such thing: ${call}` });
  }

  #load(fields: Record<string, unknown>): Reply {
    if (fields.model_id) {
      return this.#enqueue(fields, 'load_weights', () => json({ path: fields.path }));
    }
    const model = `${fields.session_id}:train:${fields.model_seq_id}`;
    return this.#promise(`${model}:load`, model, json({ path: fields.path, model_id: model }));
  }

  /** Answers a submission whose result is there at once. */
  #promise(request_id: string, model_id: string, result: Result): Reply {
    this.#finish(request_id, result);
    return reply(200, { request_id, model_id });
  }

  #finish(requestId: string, result: Result): void {
    this.#results.set(requestId, result);
    for (const wake of this.#waiters.get(requestId) ?? []) wake();
    this.#waiters.delete(requestId);
  }

  /** Takes a numbered request and runs whatever is next in order. A number that comes again gets the same promise. */
  #enqueue(fields: Record<string, unknown>, what: string, run: (model: string) => Result): Reply {
    const model = String(fields.model_id);
    const seqId = Number(fields.seq_id);
    const requestId = `${model}:${seqId}`;
    const queue = this.#queues.get(model) ?? { next: 1, waiting: new Map() };
    this.#queues.set(model, queue);
    this.#checkSame(requestId, `${what} ${JSON.stringify(fields)}`);
    if (this.#options.forgetful && seqId < queue.next) {
      this.executed.push({ model, seqId, what });
      this.#finish(requestId, run(model));
    }
    if (seqId >= queue.next && !queue.waiting.has(seqId)) {
      queue.waiting.set(seqId, { requestId, what, run: () => run(model) });
    }
    for (let next = queue.waiting.get(queue.next); next; next = queue.waiting.get(queue.next)) {
      this.executed.push({ model, seqId: queue.next, what: next.what });
      queue.waiting.delete(queue.next++);
      this.#finish(next.requestId, next.run());
    }
    return reply(200, { request_id: requestId, model_id: model });
  }

  #forwardBackward(body: Buffer): Reply {
    const request = decodeForwardBackwardRequest(body);
    const tokens = request.data.map((datum) => datum.tokens).join();
    const fields = { model_id: request.modelId, seq_id: request.seqId, tokens };
    const what = `${request.forwardOnly ? 'forward' : 'forward_backward'}:${request.data.length}`;
    return this.#enqueue(fields, what, (model) => {
      if (request.data.some(({ tokens }) => tokens.includes(666))) return failed('token 666 is out of range');
      if (!request.forwardOnly)
        this.#gradients.set(model, (this.#gradients.get(model) ?? 0) + request.data.length);
      return runPass(request);
    });
  }

  #checkSame(requestId: string, request: string): void {
    const before = this.#bodies.get(requestId) ?? request;
    if (before !== request) this.collisions.push(requestId);
    this.#bodies.set(requestId, request);
  }

  #sample(fields: Record<string, unknown>, text: string): Reply {
    const request = wire(SampleRequest).parse(fields);
    const key = `${request.sampling_session_id}:${request.seq_id}`;
    const sample_sequence_ids = Array.from({ length: request.num_samples }, (_, index) => `${key}:${index}`);
    this.#checkSame(key, text);
    if (!this.sampled.has(key)) {
      this.sampled.set(key, tokensOf(request));
      const draw = () => {
        if (!this.gone.has(key)) this.#finish(key, protobuf(drawSample(request)));
      };
      if (this.#options.sampleMs) setTimeout(draw, this.#options.sampleMs);
      else draw();
    }
    return reply(200, { request_id: key, sample_sequence_ids });
  }

  async #retrieve(fields: Record<string, unknown>): Promise<Reply> {
    const requestId = String(fields.request_id);
    if (this.gone.has(requestId)) return reply(410, { detail: 'gone' });
    this.#polls++;
    this.peakPolls = Math.max(this.peakPolls, this.#polls);
    const result = await this.#await(requestId);
    this.#polls--;
    if (!result) return reply(408, { type: 'try_again', request_id: requestId, queue_state: 'active' });
    if (fields.allow_metadata_only && result.body.length > (this.#options.inlineBytes ?? 1e9)) {
      return reply(200, { status: 'complete_metadata', response_payload_size: result.body.length });
    }
    return { status: 200, raw: result };
  }

  async #await(requestId: string): Promise<Result | undefined> {
    const ready = this.#results.get(requestId);
    if (ready) return ready;
    await new Promise<void>((resolve) => {
      const waiters = this.#waiters.get(requestId) ?? new Set();
      this.#waiters.set(requestId, waiters.add(resolve));
      setTimeout(resolve, this.#options.holdMs ?? 50);
    });
    return this.#results.get(requestId);
  }

  async #retrieveMany(fields: Record<string, unknown>): Promise<Reply> {
    const { sampling_session_id, cloned_sampler_id } = fields.target as Record<string, unknown>;
    const mine = ([id]: [string, Result]) => {
      const seq = id.startsWith(`${sampling_session_id}:`)
        ? id.slice(`${sampling_session_id}:`.length)
        : undefined;
      return seq !== undefined && BigInt(seq) / 1_000_000_000n === BigInt(cloned_sampler_id as number);
    };
    await new Promise((resolve) => setTimeout(resolve, fields.timeout === 0 ? 0 : 20));
    const all = [...this.#results].filter(mine);
    const completions = all.slice(fields.prev_cursor as number).map(([request_id, result]) => ({
      state: 'finished',
      request_id,
      response_payload_uncompressed_size: result.body.length,
    }));
    return reply(200, { completions, cursor: all.length });
  }
}

function searchPage(isSecond: boolean) {
  const session = { created_at: '2026-01-01T00:00:00Z', owner: 'me', project_id: 'p', checkpoints_count: 0 };
  if (isSecond) return { sessions: [{ ...session, session_id: 'second' }], next_cursor: null };
  const next_cursor = { last_created_at: '2026-01-01T00:00:00Z', last_session_id: 'first' };
  return { sessions: [{ ...session, session_id: 'first' }], next_cursor };
}

function tokensOf(request: SampleRequest): number[] {
  return request.prompt.chunks.flatMap((chunk) => (chunk.type === 'encoded_text' ? chunk.tokens : []));
}

function drawSample(request: SampleRequest): Uint8Array {
  const prompt = tokensOf(request);
  const tokens = Int32Array.from(prompt.slice(0, request.sampling_params.max_tokens ?? prompt.length));
  const scored = prompt.map((token, index) => (index === 0 ? Number.NaN : logprobOf(token, index)));
  return encodeSampleResponse({
    sequences: Array.from({ length: request.num_samples }, () => ({
      stopReason: 'length' as const,
      tokens,
      logprobs: Float32Array.from(tokens, logprobOf),
    })),
    promptLogprobs: request.prompt_logprobs ? Float32Array.from(scored) : undefined,
  });
}

/** Integers beyond 2^53 become bigint. (TypeScript does not know the reviver's third argument yet.) */
function parseLossless(text: string): Record<string, unknown> {
  const revive = (_key: string, value: unknown, context?: { source?: string }) =>
    Number.isInteger(value) && !Number.isSafeInteger(value) ? BigInt(context?.source ?? 0) : value;
  return JSON.parse(text, revive);
}

const reply = (status: number, body?: unknown): Reply => ({ status, body });

function write(response: ServerResponse, { status, body, raw }: Reply): void {
  const result = raw ?? (body === undefined ? undefined : json(body));
  if (!result) {
    response.writeHead(status).end();
    return;
  }
  const contentType = result.type === 'json' ? 'application/json' : 'application/x-protobuf';
  response.writeHead(status, { 'content-type': contentType }).end(result.body);
}

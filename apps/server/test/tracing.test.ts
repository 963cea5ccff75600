/** Traces, as a collector receives them by OTLP over HTTP. */
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { fileURLToPath } from 'node:url';
import { BinaryReader } from '@bufbuild/protobuf/wire';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { StartError } from '../src/start-error.ts';
import { openTracing } from '../src/telemetry/open-tracing.ts';
import type { Tracing } from '../src/telemetry/tracing.ts';
import { FakeEngine } from './fake-engine.ts';
import { MODEL, onEachDatabase } from './harness.ts';

/** A span as it came, by the field numbers of opentelemetry/proto/trace/v1/trace.proto. */
interface Span {
  traceId: string;
  spanId: string;
  parentSpanId: string;
  name: string;
  kind: number;
  start: bigint;
  end: bigint;
  attributes: Record<string, string | number>;
  status: number;
}

let collector: Server;
let requests: { path: string; headers: Record<string, unknown>; body: Uint8Array }[];
let tracing: Tracing | undefined;

beforeEach(async () => {
  requests = [];
  collector = createServer(async (request, response) => {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    requests.push({ path: request.url ?? '', headers: request.headers, body: Buffer.concat(chunks) });
    response.writeHead(200, { 'content-type': 'application/x-protobuf' }).end();
  });
  await new Promise<void>((resolve) => collector.listen(0, '127.0.0.1', resolve));
  const { port } = collector.address() as AddressInfo;
  vi.stubEnv('OTEL_EXPORTER_OTLP_ENDPOINT', `http://127.0.0.1:${port}`);
  vi.stubEnv('OTEL_SERVICE_NAME', 'trainer');
  vi.stubEnv('OTEL_RESOURCE_ATTRIBUTES', 'deployment.environment=test');
  tracing = await openTracing(process.env);
});
afterEach(async () => {
  await tracing?.close();
  vi.unstubAllEnvs();
  collector.closeAllConnections();
  await new Promise((resolve) => collector.close(resolve));
});

type Fields = Map<number, (Uint8Array | bigint | number)[]>;

/** A protobuf message, field by field. */
function fieldsOf(bytes: Uint8Array): Fields {
  const reader = new BinaryReader(bytes);
  const fields: Fields = new Map();
  while (reader.pos < reader.len) {
    const [field, type] = reader.tag();
    const read: Record<number, () => Uint8Array | bigint | number> = {
      0: () => BigInt(reader.int64()),
      1: () => BigInt(reader.fixed64()),
      2: () => reader.bytes(),
      5: () => reader.fixed32(),
    };
    fields.set(field, [...(fields.get(field) ?? []), read[type]!()]);
  }
  return fields;
}

const messages = (fields: Fields, field: number) =>
  (fields.get(field) ?? []).map((bytes) => fieldsOf(bytes as Uint8Array));
const text = (fields: Fields, field: number) =>
  Buffer.from((fields.get(field)?.[0] as Uint8Array) ?? []).toString();
const hex = (fields: Fields, field: number) =>
  Buffer.from((fields.get(field)?.[0] as Uint8Array) ?? []).toString('hex');

function attributesOf(fields: Fields, field: number): Record<string, string | number> {
  const pairs = messages(fields, field).map((pair) => {
    const [value] = messages(pair, 2) as [Fields];
    const isText = value.has(1);
    return [text(pair, 1), isText ? text(value, 1) : Number(value.get(3)?.[0])] as const;
  });
  return Object.fromEntries(pairs);
}

/** What the collector has, once all is sent. */
async function received(): Promise<{ spans: Span[]; resource: Record<string, string | number> }> {
  await tracing?.close();
  tracing = undefined;
  const resources = requests.flatMap(({ body }) => messages(fieldsOf(body), 1));
  const spans = resources.flatMap((entry) => messages(entry, 2).flatMap((scope) => messages(scope, 2)));
  const resource = Object.assign(
    {},
    ...resources.flatMap((entry) => messages(entry, 1)).map((one) => attributesOf(one, 1)),
  );
  return {
    resource,
    spans: spans.map((span) => ({
      traceId: hex(span, 1),
      spanId: hex(span, 2),
      parentSpanId: hex(span, 4),
      name: text(span, 5),
      kind: Number(span.get(6)?.[0] ?? 0),
      start: span.get(7)![0] as bigint,
      end: span.get(8)![0] as bigint,
      attributes: attributesOf(span, 9),
      status: Number(messages(span, 15)[0]?.get(3)?.[0] ?? 0),
    })),
  };
}

const TOKENIZER = fileURLToPath(new URL('../../../packages/tokenizer/fixtures/qwen2', import.meta.url));
const TRACE = '4bf92f3577b34da6a3ce929d0e0e4736';
const CALLER = '00f067aa0ba902b7';
const SERVER_KIND = 2;
const ERROR = 2;

onEachDatabase((open) => {
  const start = async () => await open({ tracing });

  test('a request, its work and its time in the engine are one trace with the caller', async () => {
    const server = await start();
    const model = await server.model();
    const headers = { traceparent: `00-${TRACE}-${CALLER}-01`, 'x-request-id': 'my-request' };
    await server.result(await server.forwardBackward(model, 1, { data: 2, headers }));
    const { spans, resource } = await received();
    expect(resource).toMatchObject({ 'service.name': 'trainer', 'deployment.environment': 'test' });
    expect(requests[0]).toMatchObject({ path: '/v1/traces' });
    const mine = spans.filter(({ traceId }) => traceId === TRACE);
    const named = (name: string) => mine.find((span) => span.name === name)!;
    const http = named('POST /api/v1/forward_backward');
    expect(http).toMatchObject({ parentSpanId: CALLER, kind: SERVER_KIND, status: 0 });
    expect(http.attributes).toEqual({
      'http.request.method': 'POST',
      'http.route': '/api/v1/forward_backward',
      'http.response.status_code': 200,
      'anneal.http_request_id': 'my-request',
    });
    const future = named('future forward_backward');
    expect(future.parentSpanId).toBe(http.spanId);
    expect(future.attributes).toEqual({
      'anneal.request_id': `${model}:1`,
      'anneal.kind': 'forward_backward',
      'anneal.model_id': model,
      'anneal.tokens': 8,
      'anneal.sequences': 2,
      'anneal.loss_fn': 'cross_entropy',
    });
    const [queued, engine] = [named('queued'), named('engine forward_backward')];
    expect([queued.parentSpanId, engine.parentSpanId]).toEqual([future.spanId, future.spanId]);
    expect([queued.start, queued.end, engine.end]).toEqual([future.start, engine.start, future.end]);
    expect(mine).toHaveLength(4);
  });

  test('a failure is an error without its words, and requests without a trace begin one each', async () => {
    const server = await start();
    const model = await server.model();
    await server.result(await server.forwardBackward(model, 1, { lossFn: 'ppo' }));
    await server.sample(await server.sampler(), 0).then((promise) => server.result(promise));
    const { spans } = await received();
    const futures = spans.filter(({ name }) => name.startsWith('future '));
    const failed = futures.find(({ name }) => name === 'future forward_backward');
    expect(failed?.status).toBe(ERROR);
    expect(Object.keys(failed!.attributes).sort()).toEqual([
      'anneal.kind',
      'anneal.model_id',
      'anneal.request_id',
    ]);
    const sample = futures.find(({ name }) => name === 'future sample');
    expect(sample?.attributes).toMatchObject({ 'anneal.tokens': 7, 'anneal.sequences': 1 });
    expect(new Set(futures.map(({ traceId }) => traceId)).size).toBe(futures.length);
    expect(futures.every(({ parentSpanId }) => spans.some(({ spanId }) => spanId === parentSpanId))).toBe(
      true,
    );
  });

  test('a completion has a span of its own, and neither keys nor what was said are in any', async () => {
    const engine = new FakeEngine();
    const models = await engine.baseModels();
    engine.baseModels = async () => models.map((model) => ({ ...model, folder: TOKENIZER }));
    const server = await open({ tracing, engine });
    const secret = 'a very private question';
    const headers = { authorization: `Bearer ${server.key}`, 'content-type': 'application/json' };
    const payload = { model: MODEL, prompt: secret, user: secret, max_tokens: 3 };
    const url = `/v1/completions?q=${encodeURIComponent(secret)}`;
    const { usage } = (await server.app.http.inject({ method: 'POST', url, headers, payload })).json();
    await server.app.http.inject({ url: '/nowhere/private', headers });
    const { spans } = await received();
    const http = spans.find(({ name }) => name === 'POST /v1/completions')!;
    expect(spans.find(({ name }) => name === 'sample')).toMatchObject({
      parentSpanId: http.spanId,
      attributes: {
        'gen_ai.request.model': MODEL,
        'gen_ai.usage.input_tokens': usage.prompt_tokens,
        'gen_ai.usage.output_tokens': usage.completion_tokens,
      },
    });
    expect(spans.find(({ name }) => name === 'GET')?.attributes).toMatchObject({
      'http.response.status_code': 404,
    });
    const all = Buffer.concat(requests.map(({ body }) => body)).toString('latin1');
    for (const part of [server.key, 'private', 'question']) expect(all).not.toContain(part);
  });
});

test('without an endpoint nothing is traced, and what cannot be honoured is refused by its name', async () => {
  const endpoint = { OTEL_EXPORTER_OTLP_ENDPOINT: 'http://127.0.0.1:4318' };
  expect(await openTracing({})).toBeUndefined();
  expect(await openTracing({ OTEL_EXPORTER_OTLP_ENDPOINT: '' })).toBeUndefined();
  expect(await openTracing({ ...endpoint, OTEL_SDK_DISABLED: 'TRUE' })).toBeUndefined();
  expect(await openTracing({ ...endpoint, OTEL_TRACES_EXPORTER: 'none' })).toBeUndefined();
  const wrong = {
    OTEL_EXPORTER_OTLP_PROTOCOL: 'grpc',
    OTEL_TRACES_EXPORTER: 'zipkin',
    OTEL_TRACES_SAMPLER: 'jaeger_remote',
    OTEL_TRACES_SAMPLER_ARG: '2',
    OTEL_PROPAGATORS: 'b3',
    OTEL_BSP_SCHEDULE_DELAY: 'soon',
  };
  for (const [name, value] of Object.entries(wrong)) {
    const refused = openTracing({ ...endpoint, [name]: value });
    await expect(refused).rejects.toBeInstanceOf(StartError);
    await expect(refused).rejects.toThrow(new RegExp(`^${name}: .*${value}`));
  }
});

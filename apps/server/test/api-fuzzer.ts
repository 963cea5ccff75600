/** Sends calls that are made from the server's own schemas, and looks at what comes back. */
import fc from 'fast-check';
import { expect } from 'vitest';
import * as z from 'zod';
import { OpenAiErrorBody } from '../src/wire/openai-responses.ts';
import type { Answer, TestServer } from './harness.ts';
import { anyValue, type JsonSchema, type Names, objectOf } from './schema-values.ts';

/** So many fields that hardly any request would have them all right. */
const OPENAI_VALUES = {
  temperature: [0, 1],
  top_p: [0.5],
  top_k: [-1, 3],
  n: [1, 2],
  stop: ['.', ['a', 'b']],
  seed: [7],
  logit_bias: [{}],
  frequency_penalty: [0],
  presence_penalty: [0],
  max_tokens: [4],
  prompt: ['two words', [5, 6], ['a', 'b']],
  messages: [[{ role: 'user', content: 'hello' }]],
};

/** Makes one of each thing, and names it. */
export async function namesOf(server: TestServer): Promise<Names> {
  const session = await server.session();
  const model = await server.model({ session });
  const sampler = await server.sampler({ session });
  const path = await server.saveState(model, 1, 'a');
  const request = String((await server.sample(sampler, 0)).json.request_id);
  const links = [
    `/training_runs/${model}/checkpoints/weights/a/archive`,
    `/sessions/${session}/trace_export`,
  ];
  const urls = await Promise.all(links.map(async (link) => String((await server.get(link)).json.url)));
  const queries = urls.map((url) => new URL(url).searchParams);
  return {
    known: [session, model, sampler, path, request, 'tiny', 'weights', 'a'],
    byField: {
      session_id: [session],
      model_id: [model],
      run_id: [model],
      sampling_session_id: [sampler],
      sampler_id: [sampler],
      rollout_id: [request],
      base_model: ['tiny'],
      model: ['tiny', path],
      model_path: [path],
      path: [path, 'b'],
      source_path: [path],
      tinker_path: [path],
      request_id: [request],
      kind: ['weights', 'sampler_weights', 'external_weights'],
      name: ['a'],
      file: ['adapter_config.json'],
      loss_fn: ['cross_entropy'],
      expires: queries.map((query) => query.get('expires') ?? ''),
      signature: queries.map((query) => query.get('signature') ?? ''),
      '*': ['tiny', path],
      ...OPENAI_VALUES,
    },
  };
}

export interface Route {
  method: string;
  url: string;
  schema?: { hide?: boolean; body?: unknown; params?: unknown; querystring?: unknown; response?: unknown };
}

/** One revokes the key of all others, one never ends; they have tests of their own. */
const APART = ['DELETE /api/v1/auth/apikey/me', 'GET /console/api/events', 'HEAD /console/api/events'];
/** Calls that end what the others need: they hear of nothing that exists. */
const ENDS = ['/finish', '/unload_model'];
const NOTHING: Names = { known: ['x'], byField: {} };

/** All calls; not the console's pages, which are files. */
export function routesOf(server: TestServer): Route[] {
  const routes = server.app.routes.map((route) => ({ ...route, method: String(route.method) })) as Route[];
  return routes.filter(({ method, url, schema }) => !schema?.hide && !APART.includes(`${method} ${url}`));
}

const isOpenAi = ({ url }: Route): boolean => /^\/(oai\/api\/)?v1\//.test(url);

function schemaOf(part: unknown): JsonSchema {
  if (!(part instanceof z.ZodType)) return {};
  return z.toJSONSchema(part, { io: 'input', unrepresentable: 'any' }) as JsonSchema;
}

function requestOf(route: Route, existing: Names) {
  const names = ENDS.some((end) => route.url.endsWith(end)) ? NOTHING : existing;
  const { body, params, querystring } = route.schema ?? {};
  const segments = params ? objectOf(schemaOf(params), names, {}) : fc.constant({});
  const query = querystring ? anyValue(schemaOf(querystring), names) : fc.constant({});
  return fc.tuple(segments, query, body ? anyValue(schemaOf(body), names) : fc.constant(undefined));
}

/** Whatever a value is: some have a `toString` of their own. */
function asText(value: unknown): string {
  return typeof value === 'string' ? value : (JSON.stringify(value) ?? '');
}

export function pathOf(route: Route, params: unknown, query: unknown): string {
  const values = Object(params) as Record<string, unknown>;
  const path = route.url.replace(/:(\w+)|\*/g, (match, name: string | undefined) => {
    return encodeURIComponent(asText(values[name ?? match] ?? 'x')).slice(0, 200) || 'x';
  });
  const entries = Object.entries(Object(query) as Record<string, unknown>).map(([key, value]) => [
    key,
    asText(value),
  ]);
  return `${path}?${new URLSearchParams(entries as [string, string][])}`;
}

/** Nobody waits half a minute for each of a thousand polls. */
function impatient(route: Route, body: unknown): unknown {
  const waits = route.url.endsWith('/retrieve_futures') && typeof body === 'object' && body !== null;
  return waits && !Array.isArray(body) ? { ...body, timeout: 0 } : body;
}

/** The answer is none of a broken server, and has the shape that its clients read. */
function checkAnswer(route: Route, answer: Answer): void {
  expect(answer.status).toBeLessThan(500);
  expect([402, 409]).not.toContain(answer.status);
  if (String(answer.headers['content-type']).startsWith('text/event-stream')) checkEvents(route, answer);
  if (answer.status < 400 || route.method === 'HEAD') return;
  if (isOpenAi(route)) expect(OpenAiErrorBody.parse(answer.json).error.type).not.toBe('server_error');
  else if (answer.status !== 408) expect(answer.json.detail).toEqual(expect.any(String));
}

/** Each event of a stream is what the call's description says, or an error that is the caller's. */
function checkEvents(route: Route, { raw }: Answer): void {
  const { 200: success } = route.schema!.response as {
    200: { content: Record<string, { schema: z.ZodType }> };
  };
  const lines = raw.toString().trim().split('\n\n');
  const end = lines.at(-1);
  for (const line of lines.slice(0, -1)) {
    success.content['text/event-stream']?.schema.parse(JSON.parse(line.slice('data: '.length)));
  }
  if (end === 'data: [DONE]') return;
  const { error } = OpenAiErrorBody.parse(JSON.parse(String(end).slice('data: '.length)));
  expect(error.type).toBe('invalid_request_error');
}

/** One input: a call, what is in its path, query and body, and whether another owner sends it. */
interface Input {
  call: string;
  parts: [params: unknown, query: unknown, body: unknown];
  isOther: boolean;
}

export class Fuzzer {
  readonly #server: TestServer;
  readonly #routes: Map<string, Route>;
  #names: Names = NOTHING;
  /** Ids that no other owner may see. */
  readonly #secrets: string[] = [];
  /** Calls that were accepted, and how often. */
  readonly accepted = new Map<string, number>();

  constructor(server: TestServer) {
    this.#server = server;
    this.#routes = new Map(routesOf(server).map((route) => [`${route.method} ${route.url}`, route]));
  }

  get callCount(): number {
    return this.#routes.size;
  }

  /** Sends `count` inputs that name what exists now. */
  async run(count: number): Promise<void> {
    this.#names = await namesOf(this.#server);
    this.#secrets.push(...(this.#names.byField.session_id as string[]));
    const property = fc.asyncProperty(this.#inputs(), (input) => this.#send(input));
    await fc.assert(property, { numRuns: count, endOnFailure: true });
  }

  #inputs(): fc.Arbitrary<Input> {
    const calls = [...this.#routes.keys()];
    // Calls with a body have the most to get wrong.
    const withBody = calls.filter((call) => this.#routes.get(call)!.schema?.body);
    return fc.constantFrom(...calls, ...withBody, ...withBody).chain((call) => {
      // The other owner makes nothing of its own, so that whatever it is shown is not for it.
      const isOther = call.endsWith('/create_session') ? fc.constant(false) : fc.nat(4).map((n) => n === 0);
      const parts = requestOf(this.#routes.get(call)!, this.#names);
      return fc.record({ call: fc.constant(call), parts, isOther });
    });
  }

  async #send({ call, parts, isOther }: Input): Promise<void> {
    const route = this.#routes.get(call)!;
    const [params, query, body] = parts;
    const path = pathOf(route, params, query);
    const key = isOther ? this.#server.otherKey : this.#server.key;
    const answer = await this.#server.call(route.method, path, impatient(route, body), { key, prefix: '' });
    checkAnswer(route, answer);
    if (answer.status >= 300) return;
    this.accepted.set(call, (this.accepted.get(call) ?? 0) + 1);
    if (isOther && !path.includes('signature=')) this.#checkSecrecy(answer, JSON.stringify(parts));
    // What is published may be seen.
    if (call.startsWith('POST') && call.endsWith('/publish')) {
      await this.#server.call('DELETE', path, undefined, { prefix: '' });
    }
  }

  /** Ids may come back to whoever sent them. */
  #checkSecrecy({ raw }: Answer, sent: string): void {
    const text = raw.toString();
    expect(this.#secrets.filter((id) => text.includes(id) && !sent.includes(id))).toEqual([]);
  }
}

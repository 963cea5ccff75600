/** Every call of the API with arbitrary input made from its own schema: whatever comes, no 5xx and no lasting harm. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import * as z from 'zod';
import { closeServer, onEachDatabase, passBody, type TestServer } from './harness.ts';

/** `ANNEAL_FUZZ_RUNS=10000` makes the long version. */
const RUNS = Number(process.env.ANNEAL_FUZZ_RUNS ?? 1000);

interface JsonSchema {
  type?: string | string[];
  properties?: Record<string, JsonSchema>;
  items?: JsonSchema;
  anyOf?: JsonSchema[];
  oneOf?: JsonSchema[];
  enum?: unknown[];
  const?: unknown;
  additionalProperties?: JsonSchema | boolean;
  $ref?: string;
  $defs?: Record<string, JsonSchema>;
}

const junk = fc.oneof(
  fc.jsonValue(),
  fc.constantFrom<unknown>(null, -1, 0, 2 ** 53, -(2 ** 63), 1e308, '', '\u0000', '../..', [], {}, true),
  fc.string({ unit: 'binary' }),
);

/** Values that mostly fit; now and then, at any depth, one that does not. */
function anyValue(schema: JsonSchema, names: Names, defs = schema.$defs ?? {}): fc.Arbitrary<unknown> {
  const fitting = fittingValue(schema, names, defs);
  return fc.oneof({ weight: 15, arbitrary: fitting }, { weight: 1, arbitrary: junk });
}

function fittingValue(
  schema: JsonSchema,
  names: Names,
  defs: Record<string, JsonSchema>,
): fc.Arbitrary<unknown> {
  if (schema.$ref) return anyValue(defs[schema.$ref.split('/').at(-1) ?? ''] ?? {}, names, defs);
  if (schema.const !== undefined) return fc.constant(schema.const);
  if (schema.enum) return fc.constantFrom(...schema.enum);
  const options = schema.anyOf ?? schema.oneOf;
  if (options) return fc.oneof(...options.map((option) => anyValue(option, names, defs)));
  switch (Array.isArray(schema.type) ? schema.type[0] : schema.type) {
    case 'object':
      return objectOf(schema, names, defs);
    case 'array':
      return fc.array(anyValue(schema.items ?? {}, names, defs), { maxLength: 4 });
    case 'integer':
      return fc.oneof(fc.integer({ min: 0, max: 9 }), fc.constantFrom(2 ** 31, 2 ** 53 - 1));
    case 'number':
      return fc.oneof(fc.double({ min: 0, max: 1, noNaN: true }), fc.integer({ min: 0, max: 9 }));
    case 'boolean':
      return fc.boolean();
    case 'string':
      return fc.oneof(fc.constantFrom(...names.known), fc.string());
    case 'null':
      return fc.constant(null);
    default:
      return junk;
  }
}

function objectOf(schema: JsonSchema, names: Names, defs: Record<string, JsonSchema>): fc.Arbitrary<unknown> {
  const fields = Object.entries(schema.properties ?? {}).map(([key, field]) => {
    const known = names.byField[key];
    const arbitrary = anyValue(field, names, defs);
    return [
      key,
      known ? fc.oneof({ weight: 6, arbitrary: fc.constantFrom(...known) }, arbitrary) : arbitrary,
    ] as const;
  });
  const required = fields.map(([key]) => key).filter(() => Math.random() < 0.8);
  const record = fc.record(Object.fromEntries(fields), { requiredKeys: required });
  if (typeof schema.additionalProperties !== 'object') return record;
  const extra = fc.dictionary(fc.string(), anyValue(schema.additionalProperties, names, defs), {
    maxKeys: 3,
  });
  return fc.tuple(record, extra).map(([a, b]) => ({ ...a, ...b }));
}

/** Ids that exist, so that the input gets past the front door. */
interface Names {
  known: string[];
  byField: Record<string, string[]>;
}

async function namesOf(server: TestServer): Promise<Names> {
  const session = await server.session();
  const model = await server.model({ session });
  const sampler = await server.sampler({ session });
  const path = await server.saveState(model, 1, 'a');
  const request = String((await server.sample(sampler, 0)).json.request_id);
  return {
    known: [session, model, sampler, path, request, 'tiny', 'weights', 'a'],
    byField: {
      session_id: [session],
      model_id: [model],
      run_id: [model],
      sampling_session_id: [sampler],
      sampler_id: [sampler],
      base_model: ['tiny'],
      model_path: [path],
      path: [path, 'b'],
      source_path: [path],
      tinker_path: [path],
      request_id: [request],
      kind: ['weights', 'sampler_weights', 'external_weights'],
      name: ['a'],
      file: ['adapter_config.json'],
      loss_fn: ['cross_entropy'],
    },
  };
}

interface Route {
  method: string;
  url: string;
  schema?: { body?: unknown; params?: unknown; querystring?: unknown };
}

function schemaOf(part: unknown): JsonSchema {
  if (!(part instanceof z.ZodType)) return {};
  return z.toJSONSchema(part, { io: 'input', unrepresentable: 'any' }) as JsonSchema;
}

function requestOf(route: Route, names: Names) {
  const { body, params, querystring } = route.schema ?? {};
  const segments = params ? objectOf(schemaOf(params), names, {}) : fc.constant({});
  const query = querystring ? anyValue(schemaOf(querystring), names) : fc.constant({});
  return fc.tuple(segments, query, body ? anyValue(schemaOf(body), names) : fc.constant(undefined));
}

/** Whatever a value is: some have a `toString` of their own. */
function asText(value: unknown): string {
  return typeof value === 'string' ? value : (JSON.stringify(value) ?? '');
}

function pathOf(route: Route, params: unknown, query: unknown): string {
  const values = Object(params) as Record<string, unknown>;
  const path = route.url.replace('/api/v1', '').replace(/:(\w+)/g, (_match, name: string) => {
    return encodeURIComponent(asText(values[name] ?? 'x')).slice(0, 200) || 'x';
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

function routesOf(server: TestServer): Route[] {
  return server.app.routes
    .map((route) => ({ ...route, method: String(route.method) }))
    .filter((route) => route.url.startsWith('/api/v1') && route.method !== 'HEAD') as Route[];
}

/** Calls that end what the others need; they have tests of their own. */
const ENDS = ['/finish', '/unload_model', '/auth/apikey/me'];

onEachDatabase((open) => {
  test('no input makes a 5xx, and everything works afterwards', async () => {
    const server = await open({ config: { gapSeconds: 1, pollSeconds: 1 } });
    const names = await namesOf(server);
    const routes = routesOf(server).filter(
      (route) => !ENDS.some((end) => route.url.endsWith(end)) || route.method === 'GET',
    );
    expect(routes.length).toBeGreaterThan(35);
    let accepted = 0;
    const requests = fc.nat(routes.length - 1).chain((index) => {
      const route = routes[index]!;
      return requestOf(route, names).map((parts) => [`${route.method} ${route.url}`, index, parts] as const);
    });
    await fc.assert(
      fc.asyncProperty(requests, async ([, index, [params, query, body]]) => {
        const route = routes[index]!;
        const path = pathOf(route, params, query);
        const answer = await server.call(route.method, path, impatient(route, body));
        expect(answer.status).toBeLessThan(500);
        if (answer.status < 300) accepted += 1;
        expect([402, 409]).not.toContain(answer.status);
        if (answer.status >= 400 && answer.status !== 408) {
          expect(answer.json.detail).toEqual(expect.any(String));
        }
      }),
      { numRuns: RUNS, endOnFailure: true },
    );
    expect(accepted).toBeGreaterThan(RUNS / 10);
    const model = await server.model();
    await server.forwardBackward(model, 1);
    expect((await server.result(await server.optimStep(model, 2))).json.type).toBe('optim_step');
    expect((await server.get('/training_runs', { key: server.otherKey })).json.training_runs).toEqual([]);
    await closeServer(server);
  }, 600_000);

  test('no bytes make a 5xx', async () => {
    const server = await open({ config: { gapSeconds: 1, pollSeconds: 1 } });
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
  }, 600_000);
});

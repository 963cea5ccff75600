/** What happens below the methods, with a server made of one function. */
import { afterEach, expect, onTestFinished, test, vi } from 'vitest';
import { RestClient, ServiceClient, type ServiceClientOptions } from '../src/index.ts';
import { FAST, silent } from './setup.ts';

interface Request {
  path: string;
  headers: Headers;
  body: string;
}

type Handler = (request: Request, attempt: number) => Response | Promise<Response> | undefined;

const ok = (body: unknown = {}) => Response.json(body);
const status = (code: number, headers: Record<string, string> = {}, body = '{"detail":"x"}') =>
  new Response(body, { status: code, headers });

/** Options of a client whose requests reach `handle`, then a server that agrees to everything. */
function against(handle: Handler): ServiceClientOptions & { requests: Request[] } {
  const requests: Request[] = [];
  const fetch = async (url: string | URL | globalThis.Request, init: RequestInit = {}) => {
    const path = new URL(String(url)).pathname.replace('/prefix/api/v1', '');
    const request = { path, headers: new Headers(init.headers), body: String(init.body ?? '') };
    requests.push(request);
    init.signal?.throwIfAborted();
    const answer = await handle(request, requests.filter((other) => other.path === path).length - 1);
    return (
      answer ?? ok(path === '/create_session' ? { session_id: 'S' } : { sampling_session_id: 'S:sample:0' })
    );
  };
  const baseUrl = 'http://server/prefix/';
  return {
    baseUrl,
    apiKey: 'tml-key',
    fetch: fetch as typeof globalThis.fetch,
    logger: silent,
    ...FAST,
    requests,
  };
}

afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllEnvs();
});

const capabilities = { supported_models: [] };

test('a path prefix of the base URL is kept, and every request carries key, version and idempotency key', async () => {
  const options = against(() => undefined);
  await new ServiceClient(options).createSamplingClient({ baseModel: 'm' });
  expect(options.requests.map(({ path }) => path)).toEqual([
    '/client/config',
    '/client/dynamic_config',
    '/create_session',
    '/create_sampling_session',
  ]);
  for (const { headers } of options.requests) {
    expect(headers.get('x-api-key')).toBe('tml-key');
    expect(headers.get('x-idempotency-key')).toBeTruthy();
  }
});

test('repetitions of one call keep its idempotency key and count up; another call has another key', async () => {
  const options = against(({ path }, attempt) => {
    if (path === '/get_server_capabilities') return attempt < 2 ? status(503) : ok(capabilities);
    return undefined;
  });
  const rest = new RestClient(options);
  await rest.getServerCapabilities();
  const calls = options.requests.filter(({ path }) => path === '/get_server_capabilities');
  expect(calls.map(({ headers }) => headers.get('x-stainless-retry-count'))).toEqual(['0', '1', '2']);
  await expect(rest.copyWeights('tinker://r/weights/a', { destinationProjectId: 'p' })).rejects.toThrow(
    'tinker_path',
  );
});

test('a 400 without a body comes from a proxy and is repeated; one with a body is final', async () => {
  const empty = against(({ path }, attempt) => {
    if (path !== '/get_server_capabilities') return undefined;
    return attempt === 0 ? status(400, {}, '') : ok(capabilities);
  });
  expect(await new RestClient(empty).getServerCapabilities()).toEqual(capabilities);
  const final = against(({ path }) => (path === '/get_server_capabilities' ? status(400) : undefined));
  await expect(new RestClient(final).getServerCapabilities()).rejects.toMatchObject({
    name: 'BadRequestError',
  });
  expect(final.requests).toHaveLength(2);
});

test('retry-after is honoured', async () => {
  vi.useFakeTimers();
  const options = against(({ path }, attempt) => {
    if (path !== '/get_server_capabilities') return undefined;
    return attempt === 0 ? status(429, { 'retry-after': '3' }) : ok(capabilities);
  });
  const call = new RestClient(options).getServerCapabilities();
  await vi.advanceTimersByTimeAsync(2900);
  expect(options.requests).toHaveLength(2);
  await vi.advanceTimersByTimeAsync(200);
  await call;
  expect(options.requests).toHaveLength(3);
});

test('an attempt that takes too long is an APITimeoutError', async () => {
  const options = against(({ path }) =>
    path === '/get_server_capabilities' ? new Promise(() => {}) : undefined,
  );
  const { fetch: answer } = options;
  const fetch: typeof globalThis.fetch = (url, init) =>
    Promise.race([
      answer!(url, init),
      new Promise<never>((_, reject) =>
        init?.signal?.addEventListener('abort', () => reject(init.signal?.reason)),
      ),
    ]);
  const rest = new RestClient({ ...options, fetch, timeout: 20, retry: { maxElapsedMs: 1 } });
  await expect(rest.getServerCapabilities()).rejects.toMatchObject({ name: 'APITimeoutError' });
});

test('an answer that the API does not promise is named', async () => {
  const options = against(({ path }) =>
    path === '/get_server_capabilities' ? ok({ models: [] }) : undefined,
  );
  await expect(new RestClient(options).getServerCapabilities()).rejects.toMatchObject({
    name: 'APIResponseValidationError',
    message: expect.stringContaining('supported_models'),
  });
});

const token = (name: string, lifeSeconds: number) => {
  const now = Math.floor(Date.now() / 1000);
  const claims = { sub: name, org_id: 'o', email: 'e@x', iat: now, exp: now + lifeSeconds };
  return `h.${Buffer.from(JSON.stringify(claims)).toString('base64url')}.s`;
};

test('where the server exchanges keys for tokens, calls carry tokens, renewed at half of their life', async () => {
  vi.useFakeTimers();
  let issued = 0;
  const options = against(({ path }) => {
    if (path === '/client/config') return ok({ pjwt_auth_enabled: true });
    if (path === '/auth/token') return ok({ jwt: token(`user-${issued++}`, 100) });
    return path === '/get_server_capabilities' ? ok(capabilities) : undefined;
  });
  const rest = new RestClient(options);
  await rest.getServerCapabilities();
  await rest.getServerCapabilities();
  expect(issued).toBe(1);
  expect(await rest.whoami()).toEqual({ user_urn: 'user-0', org_urn: 'tml:organization:o', email: 'e@x' });
  vi.setSystemTime(Date.now() + 51_000);
  await rest.getServerCapabilities();
  expect(issued).toBe(2);
  const [exchange] = options.requests.filter(({ path }) => path === '/auth/token');
  expect(exchange?.headers.get('x-api-key')).toBe('tml-key');
  expect(options.requests.at(-1)?.headers.get('x-api-key')).toBe(
    token('user-1', 100).slice(0, -2).concat('.s'),
  );
});

test('a token that the server calls invalid is renewed once', async () => {
  let issued = 0;
  const challenge = { 'www-authenticate': 'Bearer error="invalid_token"' };
  const options = against(({ path, headers }) => {
    if (path === '/client/config') return ok({ pjwt_auth_enabled: true });
    if (path === '/auth/token') return ok({ jwt: token(`user-${issued++}`, 1000) });
    if (path !== '/get_server_capabilities') return undefined;
    return headers.get('x-api-key') === token('user-0', 1000) ? status(401, challenge) : ok(capabilities);
  });
  await new RestClient(options).getServerCapabilities();
  expect(issued).toBe(2);
});

test('heartbeats come every ten seconds, and end when the server says the session has', async () => {
  vi.useFakeTimers();
  const options = against(({ path }, attempt) => {
    if (path !== '/session_heartbeat') return undefined;
    return attempt < 2 ? ok({ type: 'session_heartbeat' }) : status(410);
  });
  await new ServiceClient(options).createSamplingClient({ baseModel: 'm' });
  const beats = () => options.requests.filter(({ path }) => path === '/session_heartbeat').length;
  await vi.advanceTimersByTimeAsync(9000);
  expect(beats()).toBe(0);
  await vi.advanceTimersByTimeAsync(11_500);
  expect(beats()).toBe(2);
  await vi.advanceTimersByTimeAsync(100_000);
  expect(beats()).toBe(3);
});

test('missed heartbeats are worth a warning after two minutes only', async () => {
  vi.useFakeTimers();
  const warn = vi.fn();
  const options = against(({ path }) => (path === '/session_heartbeat' ? status(503) : undefined));
  await new ServiceClient({ ...options, logger: { ...silent, warn } }).createSamplingClient({
    baseModel: 'm',
  });
  await vi.advanceTimersByTimeAsync(110_000);
  expect(warn).not.toHaveBeenCalled();
  await vi.advanceTimersByTimeAsync(20_000);
  expect(warn).toHaveBeenCalledWith(expect.stringContaining('no heartbeat of session S'));
});

test('a server without dynamic configuration is a server', async () => {
  const options = against(({ path }) => (path === '/client/dynamic_config' ? status(404) : undefined));
  const sampler = await new ServiceClient(options).createSamplingClient({ baseModel: 'm' });
  expect(sampler.getBaseModel()).toBe('m');
});

test('a session that could not be made is tried again by the next call', async () => {
  const options = against(({ path }, attempt) =>
    path === '/create_session' && attempt === 0 ? status(403) : undefined,
  );
  const service = new ServiceClient(options);
  await expect(service.createSamplingClient({ baseModel: 'm' })).rejects.toMatchObject({ status: 403 });
  await service.createSamplingClient({ baseModel: 'm' });
});

test('waiting for capacity is reported', async () => {
  const events: unknown[] = [];
  const options = against(({ path }, attempt) => {
    if (path === '/asample') return ok({ request_id: 'r', sample_sequence_ids: ['r:0'] });
    if (path !== '/retrieve_future') return undefined;
    const paused = {
      type: 'try_again',
      request_id: 'r',
      queue_state: 'paused_capacity',
      queue_state_reason: 'busy',
    };
    if (attempt === 0) return status(408, {}, JSON.stringify(paused));
    if (attempt === 1) return ok({ ...paused, queue_state: 'active', queue_state_reason: null });
    return ok({ sequences: [{ stop_reason: 'stop', tokens: [1], logprobs: [-1] }], type: 'sample' });
  });
  const service = new ServiceClient({ ...options, onQueueState: (event) => events.push(event) });
  const sampler = await service.createSamplingClient({ baseModel: 'm' });
  const { sequences } = await sampler.sample({ prompt: [1], samplingParams: { max_tokens: 1 } });
  expect(sequences[0]).toMatchObject({ tokens: [1], sequence_id: 'r:0' });
  expect(events).toEqual([
    { queueState: 'paused_capacity', reason: 'busy', requestType: 'Sample', requestId: 'r' },
    { queueState: 'active', reason: undefined, requestType: 'Sample', requestId: 'r' },
  ]);
});

test('429 makes all sampling wait, then sends the same request again', async () => {
  vi.useFakeTimers();
  const options = against(({ path }, attempt) => {
    if (path === '/asample')
      return attempt === 0 ? status(429) : ok({ request_id: 'r', sample_sequence_ids: ['r:0'] });
    if (path !== '/retrieve_future') return undefined;
    return ok({ sequences: [{ stop_reason: 'stop', tokens: [1], logprobs: [-1] }] });
  });
  const sampler = await new ServiceClient(options).createSamplingClient({ baseModel: 'm' });
  const sample = sampler.sample({ prompt: [1], samplingParams: { max_tokens: 1 } });
  await vi.advanceTimersByTimeAsync(900);
  const sent = () => options.requests.filter(({ path }) => path === '/asample');
  expect(sent()).toHaveLength(1);
  await vi.advanceTimersByTimeAsync(200);
  await sample;
  expect(sent().map(({ body }) => JSON.parse(body).seq_id)).toEqual([0, 0]);
});

test('402 is waited out for as long as the server allows, then it is an error', async () => {
  vi.useFakeTimers();
  const options = against(({ path }) => {
    if (path === '/client/config') return ok({ billing_exception_max_pause_duration_sec: 12 });
    return path === '/get_server_capabilities' ? status(402) : undefined;
  });
  const call = new RestClient(options).getServerCapabilities();
  const outcome = expect(call).rejects.toMatchObject({ name: 'BillingError' });
  await vi.advanceTimersByTimeAsync(20_000);
  await outcome;
  expect(options.requests.filter(({ path }) => path === '/get_server_capabilities')).toHaveLength(4);
});

test('zstd is used where the server asks for it and the caller brings it', async () => {
  const options = against(({ path }) => {
    if (path === '/client/config') return ok({ proto_compress_fwdbwd: true });
    if (path === '/create_model') return ok({ request_id: 'c', model_id: 'M' });
    if (path === '/get_info') return ok({ model_id: 'M', model_data: {} });
    if (path === '/forward_backward') return ok({ request_id: 'f' });
    if (path !== '/retrieve_future') return undefined;
    return ok({ model_id: 'M', loss_fn_output_type: 'A', loss_fn_outputs: [], metrics: {} });
  });
  const zstdCompress = vi.fn((bytes: Uint8Array<ArrayBuffer>) => bytes.slice(0, 1));
  const service = new ServiceClient({ ...options, zstdCompress });
  const model = await service.createLoraTrainingClient({ baseModel: 'm' });
  const chunks = [{ type: 'encoded_text' as const, tokens: [1] }];
  await model.forward([{ model_input: { chunks }, loss_fn_inputs: { target_tokens: [1] } }], 'cross_entropy');
  const { headers } = options.requests.find(({ path }) => path === '/forward_backward')!;
  expect([headers.get('content-encoding'), headers.get('content-type')]).toEqual([
    'zstd',
    'application/x-protobuf',
  ]);
  expect(zstdCompress).toHaveBeenCalledTimes(1);
});

test('options come from the environment when they are not given, and wrong ones are named', () => {
  vi.stubEnv('TINKER_API_KEY', '');
  expect(() => new ServiceClient({ baseUrl: 'http://x' })).toThrow('TINKER_API_KEY');
  vi.stubEnv('TINKER_API_KEY', 'tml-from-environment');
  vi.stubEnv('TINKER_BASE_URL', 'ftp://x');
  expect(() => new ServiceClient()).toThrow('"ftp://x" is no http or https URL');
  expect(() => new ServiceClient({ baseUrl: 'http://x', timeout: 0 })).toThrow('timeout must be positive');
});

test('the key may be fetched for each call', async () => {
  const keys = ['tml-1', 'tml-2'];
  const options = against(({ path }) => (path === '/get_server_capabilities' ? ok(capabilities) : undefined));
  const rest = new RestClient({ ...options, apiKey: async () => keys.shift() ?? '' });
  await rest.getServerCapabilities();
  expect(options.requests.map(({ headers }) => headers.get('x-api-key'))).toEqual(['tml-1', 'tml-2']);
  await expect(rest.getServerCapabilities()).rejects.toThrow('the API key is empty');
});

test('a process whose work is done ends, though it did not close its client', async () => {
  const timers: { unref: ReturnType<typeof vi.fn> }[] = [];
  const { setTimeout: original } = globalThis;
  const spy = vi.spyOn(globalThis, 'setTimeout').mockImplementation(((run: () => void, ms: number) => {
    const timer = original(run, ms);
    const unref = vi.spyOn(timer, 'unref');
    if (ms >= 10_000 && ms !== 60_000) timers.push({ unref });
    return timer;
  }) as typeof setTimeout);
  onTestFinished(() => spy.mockRestore());
  const service = new ServiceClient(against(() => undefined));
  await service.createSamplingClient({ baseModel: 'm' });
  expect(timers).not.toHaveLength(0);
  const background = timers.filter(({ unref }) => unref.mock.calls.length > 0);
  expect(background.length).toBeGreaterThanOrEqual(2);
  await service.close('success');
});

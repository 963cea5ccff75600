import { expect, test } from 'vitest';
import { onEachDatabase, PROTOBUF, passBody } from './harness.ts';

/** A promise and how to fulfil it. */
function gate(): { closed: Promise<void>; open: () => void } {
  let open = (): void => {};
  const closed = new Promise<void>((resolve) => {
    open = resolve;
  });
  return { closed, open };
}

onEachDatabase((open) => {
  test('a request sent again gets the same promise and runs once', async () => {
    const server = await open();
    const model = await server.model();
    const copies = await Promise.all([1, 2, 3].map(() => server.forwardBackward(model, 1)));
    const ids = copies.map((copy) => copy.json.request_id);
    expect(new Set(ids)).toEqual(new Set([`${model}:1`]));
    await server.result(copies[0]!);
    const late = await server.forwardBackward(model, 1);
    expect(late.json.request_id).toBe(ids[0]);
    expect(server.engine.calls.filter((call) => call === 'forwardBackward')).toHaveLength(1);
  });

  test('the same JSON in another order of keys is the same request', async () => {
    const server = await open();
    const sampler = await server.sampler();
    const prompt = { chunks: [{ type: 'encoded_text', tokens: [5] }] };
    const body = { sampling_session_id: sampler, seq_id: 0, prompt, sampling_params: { max_tokens: 1 } };
    const first = await server.post('/asample', body);
    const again = await server.post('/asample', Object.fromEntries(Object.entries(body).reverse()));
    expect([again.status, again.json]).toEqual([200, first.json]);
  });

  test('another request under a used number is refused with 400', async () => {
    const server = await open();
    const model = await server.model();
    await server.result(await server.optimStep(model, 1, 0.1));
    const reused = await server.optimStep(model, 1, 0.2);
    expect(reused.status).toBe(400);
    expect(reused.json.detail).toContain('seq_id 1');
    const sampler = await server.sampler();
    await server.sample(sampler, 0);
    expect((await server.sample(sampler, 0, { num_samples: 2 })).status).toBe(400);
    const session = model.split(':')[0];
    const other = { session_id: session, model_seq_id: 0, base_model: 'tiny', lora_config: { rank: 8 } };
    expect((await server.post('/create_model', other)).status).toBe(400);
  });

  test('hundreds of open polls wake when their results come', async () => {
    const server = await open({ config: { pollSeconds: 20 } });
    const sampler = await server.sampler();
    const { closed, open: release } = gate();
    server.engine.sampleGate = closed;
    const promises = await Promise.all(Array.from({ length: 300 }, (_, seq) => server.sample(sampler, seq)));
    const polls = promises.map((promise) =>
      server.post('/retrieve_future', { request_id: promise.json.request_id }),
    );
    release();
    const answers = await Promise.all(polls);
    expect(new Set(answers.map((answer) => answer.status))).toEqual(new Set([200]));
  });

  test('a result can be read again, as JSON by clients that do not ask for protobuf', async () => {
    const server = await open();
    const model = await server.model();
    const promise = await server.forwardBackward(model, 1);
    const binary = await server.result(promise, { headers: { accept: `${PROTOBUF}, application/json` } });
    expect(binary.headers['content-type']).toBe(PROTOBUF);
    const { json } = await server.result(promise);
    expect(json).toMatchObject({
      loss_fn_outputs: [{ logprobs: { dtype: 'float32', shape: [4] } }],
      metrics: { 'loss:sum': expect.any(Number) },
    });
  });

  test('a large result is announced with its size only to those who allow it', async () => {
    const server = await open({ config: { metadataThresholdKiB: 1 } });
    const model = await server.model();
    const promise = await server.forwardBackward(model, 1, { data: 100 });
    const headers = { accept: PROTOBUF };
    const { json } = await server.result(promise, { headers, metadata: true });
    const whole = await server.result(promise, { headers });
    expect(json).toEqual({ status: 'complete_metadata', response_payload_size: whole.raw.length });
    const small = await server.forwardBackward(model, 2);
    expect((await server.result(small, { headers, metadata: true })).headers['content-type']).toBe(PROTOBUF);
  });

  test('a failure is a 200 with its category', async () => {
    const server = await open();
    const model = await server.model();
    const failed = await server.result(await server.forwardBackward(model, 1, { lossFn: 'ppo' }));
    expect([failed.status, failed.json.category]).toEqual([200, 'user']);
    expect(failed.json.error).toContain('ppo');
  });

  test('an unknown id is 404, a deleted result is 410', async () => {
    const server = await open({ config: { resultKeepMinutes: 1 } });
    expect((await server.post('/retrieve_future', { request_id: 'never' })).status).toBe(404);
    const promise = await server.optimStep(await server.model(), 1);
    await server.result(promise);
    await server.app.services.futures.sweep();
    expect((await server.result(promise)).status).toBe(200);
    const now = Date.now();
    await server.store.futures.sweep({ readBefore: now + 1000, finishedBefore: 0, forgetBefore: 0 });
    expect((await server.result(promise)).status).toBe(410);
  });

  test('the results of one sampler’s client come in one long poll', async () => {
    const server = await open();
    const sampler = await server.sampler();
    const own = await server.sample(sampler, 0);
    const clone = 5n * 10n ** 9n;
    const other = await server.sample(sampler, clone);
    for (const promise of [own, other]) await server.result(promise);
    const ask = (client: number, cursor = 0, timeout?: number) =>
      server.post('/retrieve_futures', {
        target: { type: 'sampling_session', sampling_session_id: sampler, cloned_sampler_id: client },
        prev_cursor: cursor,
        retrieved_request_ids: [],
        ...(timeout === undefined ? {} : { timeout }),
      });
    const first = (await ask(0)).json as { completions: { request_id: string }[]; cursor: number };
    expect(first.completions).toEqual([
      expect.objectContaining({ state: 'finished', request_id: own.json.request_id }),
    ]);
    expect((await ask(5)).json.completions).toHaveLength(1);
    expect((await ask(0, first.cursor, 0)).json.completions).toEqual([]);
    const waiting = ask(0, first.cursor, 20);
    const next = await server.sample(sampler, 1);
    expect((await waiting).json.completions).toEqual([
      expect.objectContaining({ request_id: next.json.request_id }),
    ]);
  });

  test('a cancelled sample ends at once; unknown ids are no error', async () => {
    const server = await open({ config: { pollSeconds: 20 } });
    const sampler = await server.sampler();
    server.engine.sampleGate = new Promise(() => {});
    const promise = await server.sample(sampler, 0);
    const waiting = server.result(promise);
    expect((await server.post('/cancel_future', { request_id: promise.json.request_id })).status).toBe(204);
    expect((await waiting).json).toMatchObject({ error: expect.stringContaining('cancelled') });
    expect((await server.post('/cancel_future', { request_id: 'never' })).status).toBe(204);
  });

  test('older clients send JSON and the forward pass to its own path', async () => {
    const server = await open();
    const model = await server.model();
    const input = {
      data: [
        {
          model_input: { chunks: [{ type: 'encoded_text', tokens: [5, 6] }] },
          loss_fn_inputs: { target_tokens: { data: [6, 7], dtype: 'int64', shape: [2] } },
        },
      ],
      loss_fn: 'cross_entropy',
    };
    const backward = { forward_backward_input: input, model_id: model, seq_id: 1 };
    const forward = { forward_input: input, model_id: model, seq_id: 2 };
    const first = await server.result(await server.post('/forward_backward', backward));
    const second = await server.result(await server.post('/forward', forward));
    expect(second.json).toEqual(first.json);
    expect(server.engine.calls.slice(-2)).toEqual(['forwardBackward', 'forward']);
  });

  test('a mistake in a JSON pass is named with its field and value', async () => {
    const server = await open();
    const model = await server.model();
    const datum = {
      model_input: { chunks: [{ type: 'encoded_text', tokens: [5] }] },
      loss_fn_inputs: { weights: { data: [1], dtype: 'float64' } },
    };
    const pass = (input: object) =>
      server.post('/forward_backward', { model_id: model, seq_id: 1, forward_backward_input: input });
    const loss = await pass({ data: [datum], loss_fn: 7 });
    expect(loss.json.detail).toMatch(/forward_backward_input\.loss_fn: must name a loss.* \(got 7\)/);
    expect(loss.json.detail).toContain('data.0.loss_fn_inputs.weights.dtype');
  });

  test('a client that does not count gets numbers in order of arrival', async () => {
    const server = await open();
    const model = await server.model();
    const step = { model_id: model, adam_params: {} };
    const ids = [];
    for (let i = 0; i < 3; i += 1) ids.push((await server.post('/optim_step', step)).json.request_id);
    expect(new Set(ids).size).toBe(3);
  });

  test('a broken body that still names model and number takes that number', async () => {
    const server = await open();
    const model = await server.model();
    const body = passBody(model, 1);
    const tensorAt = Buffer.from(body).indexOf('target_tokens');
    const broken = Uint8Array.from(body);
    broken[tensorAt + 15] = 3;
    expect((await server.post('/forward_backward', broken)).status).toBe(400);
    expect((await server.result(await server.optimStep(model, 2))).json.type).toBe('optim_step');
  });
});

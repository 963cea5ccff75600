import { decodeSampleResponse } from '@anneal/types';
import { expect, test } from 'vitest';
import { FakeEngine } from './fake-engine.ts';
import { onEachDatabase, PROTOBUF } from './harness.ts';

const tokens = (...ids: number[]) => ({ chunks: [{ type: 'encoded_text', tokens: ids }] });

onEachDatabase((open) => {
  test('a sample promises one id for each sequence', async () => {
    const server = await open();
    const sampler = await server.sampler();
    const { json } = await server.sample(sampler, 0, { num_samples: 3 });
    expect(json).toEqual({
      request_id: `${sampler}:0`,
      sample_sequence_ids: [0, 1, 2].map((index) => `${sampler}:0:${index}`),
    });
  });

  test('every extra of a sample comes back in its layout', async () => {
    const server = await open();
    const sampler = await server.sampler();
    const request = {
      prompt: { chunks: [...tokens(5).chunks, ...tokens().chunks, ...tokens(6, 7).chunks] },
      prompt_logprobs: true,
      prompt_logprobs_last_n: 1,
      topk_prompt_logprobs: 2,
      prompt_alt_tokens_k: 3,
      record_stability_info: true,
      target_prompt_logprobs: {
        data: [8, 9],
        dtype: 'int64',
        shape: [2, 5],
        sparse_crow_indices: [0, 1, 2],
        sparse_col_indices: [4, 0],
      },
    };
    const answer = await server.result(await server.sample(sampler, 0, request), {
      headers: { accept: PROTOBUF },
    });
    const result = decodeSampleResponse(answer.raw);
    expect(result.prompt_logprobs?.map((value) => value === null)).toEqual([true, true, false]);
    expect(result.topk_prompt_logprobs?.map((row) => row?.length ?? null)).toEqual([null, 2, 2]);
    expect(result.prompt_alt_tokens?.tokens.shape).toEqual([2, 3]);
    expect(result.target_prompt_logprobs).toMatchObject({
      shape: [2, 5],
      sparse_crow_indices: [0, 1, 2],
      sparse_col_indices: [4, 0],
    });
    expect([...(result.target_prompt_logprobs?.data ?? [])]).toEqual([-8, -9]);
  });

  test('every option of a sample reaches the engine', async () => {
    const server = await open();
    const sampler = await server.sampler();
    const request = {
      num_samples: 2,
      prompt: tokens(5, 6, 7),
      sampling_params: {
        max_tokens: 9,
        seed: 2n ** 64n - 1n,
        temperature: 0.5,
        top_k: 7,
        top_p: 0.25,
        stop: ['a', 'b'],
      },
      prompt_logprobs: true,
      topk_prompt_logprobs: 2,
      topk_sample_logprobs: 3,
      prompt_alt_tokens_k: 4,
      prompt_logprobs_last_n: 2,
      target_prompt_logprobs: { data: [1, 2, -1, 4], dtype: 'int64', shape: [2, 2] },
    };
    await server.result(await server.sample(sampler, 0, request));
    expect(server.engine.last.sample).toEqual({
      samplerId: expect.any(String),
      prompt: Int32Array.from([5, 6, 7]),
      numSamples: 2,
      params: {
        maxTokens: 9,
        seed: 2n ** 64n - 1n,
        temperature: 0.5,
        topK: 7,
        topP: 0.25,
        stop: { tokenIds: [], strings: ['a', 'b'] },
      },
      promptLogprobs: true,
      topkPromptLogprobs: 2,
      topkSampleLogprobs: 3,
      promptAltTokensK: 4,
      promptLogprobsLastN: 2,
      targetPromptLogprobs: { shape: [2, 2], data: Int32Array.from([1, 2, -1, 4]) },
    });
    const stops = async (seq: number, stop: unknown) => {
      await server.result(await server.sample(sampler, seq, { sampling_params: { max_tokens: 1, stop } }));
      return server.engine.last.sample?.params.stop;
    };
    expect(await stops(1, 'x')).toEqual({ tokenIds: [], strings: ['x'] });
    expect(await stops(2, [3, 4])).toEqual({ tokenIds: [3, 4], strings: [] });
    expect(await stops(3, [])).toEqual({ tokenIds: [], strings: [] });
    expect(await stops(4, null)).toBeUndefined();
  });

  test('what a sample cannot be is refused at once, naming field and value', async () => {
    const server = await open();
    const sampler = await server.sampler();
    const image = { chunks: [{ type: 'image', data: 'AAAA', format: 'png' }] };
    const cases: [object, string][] = [
      [{ sampling_params: { max_tokens: 512 } }, '3 + 512 > 512'],
      [{ sampling_params: { max_tokens: 0 } }, 'max_tokens'],
      [{ sampling_params: { temperature: -1 } }, 'temperature'],
      [{ sampling_params: { top_p: 0 } }, 'top_p'],
      [{ sampling_params: { stop: [''] } }, 'stop[0]'],
      [{ num_samples: 0 }, 'num_samples'],
      [{ num_samples: 100_000 }, 'num_samples'],
      [{ prompt: tokens() }, 'prompt'],
      [{ prompt: image }, 'image'],
      [
        { prompt: { chunks: [{ type: 'image_asset_pointer', location: 'x', format: 'png' }] } },
        'image_asset_pointer',
      ],
      [{ prompt: { chunks: [{ type: 'dmel', dmel: 'AAAA' }] } }, 'dmel'],
      [{ prompt_logprobs_last_n: 2 }, 'prompt_logprobs_last_n'],
      [{ target_prompt_logprobs: { data: [1], dtype: 'int64', shape: [1, 1] } }, '[2, K]'],
      [{ topk_sample_logprobs: 2000 }, 'topk_sample_logprobs'],
    ];
    for (const [index, [request, part]] of cases.entries()) {
      const answer = await server.sample(sampler, index, request);
      expect([answer.status, answer.json.detail]).toEqual([400, expect.stringContaining(part)]);
    }
  });

  test('a sample may name its weights instead of a sampler', async () => {
    const server = await open();
    const request = { num_samples: 1, prompt: tokens(5), sampling_params: { max_tokens: 2 } };
    const promise = await server.post('/asample', { ...request, base_model: 'tiny' });
    expect((await server.result(promise)).json.sequences).toHaveLength(1);
    expect((await server.post('/asample', { ...request, base_model: 'huge' })).status).toBe(404);
    expect((await server.post('/asample', request)).status).toBe(400);
  });

  test('a sampler is made once; its number cannot be used for other weights', async () => {
    const server = await open({ engine: new FakeEngine(['tiny', 'alias']) });
    const session = await server.session();
    expect(await server.sampler({ session })).toBe(`${session}:sample:0`);
    expect(await server.sampler({ session })).toBe(`${session}:sample:0`);
    const other = { session_id: session, sampling_session_seq_id: 0, base_model: 'alias' };
    expect((await server.post('/create_sampling_session', other)).status).toBe(400);
    const unknown = { session_id: session, sampling_session_seq_id: 1, model_path: 'tinker://a/weights/b' };
    expect((await server.post('/create_sampling_session', unknown)).status).toBe(404);
  });

  test('clients that join a sampler get different numbers', async () => {
    const server = await open();
    const sampler = await server.sampler();
    const join = async () =>
      (await server.post('/join_sampling_session', { sampling_session_id: sampler })).json;
    expect([(await join()).client_counter, (await join()).client_counter]).toEqual([1, 2]);
  });

  test('an alias has the tokenizer of the model behind it', async () => {
    const server = await open({ engine: new FakeEngine(['tiny', 'alias']) });
    const model = await server.model({ request: { base_model: 'alias' } });
    const { json } = await server.post('/get_info', { model_id: model });
    expect(json.model_data).toEqual({ arch: 'llama', model_name: 'alias', tokenizer_id: 'tiny' });
    const models = [{ name: 'tiny', folder: '/models/tiny', tokenizer: 'org/tiny' }];
    const named = await open({ engine: new FakeEngine(['tiny', 'alias']), config: { models } });
    const other = await named.model({ request: { base_model: 'alias' } });
    const info = await named.post('/get_info', { model_id: other });
    expect(info.json.model_data).toMatchObject({ tokenizer_id: 'org/tiny' });
  });

  test('unused samplers give up their weights in the end', async () => {
    const server = await open();
    const model = await server.model();
    const save = { model_id: model, seq_id: 1, sampling_session_seq_id: 0 };
    const { json } = await server.result(await server.post('/save_weights_for_sampler', save));
    const id = String(json.sampling_session_id);
    const { blob } = (await server.store.samplers.get(id))!;
    await server.app.services.samplers.sweep(Date.now() + 1000);
    await expect(server.store.blobs.local(blob!)).rejects.toThrow();
    expect((await server.sample(id, 0)).json.detail).toContain('expired');
  });
});

import { beforeAll, expect, test } from 'vitest';
import { BadRequestError, RequestFailedError, SamplingClient, type TrainingClient } from '../src/index.ts';
import {
  BASE_MODEL,
  distance,
  drawOne,
  newModel,
  promptLogprobs,
  rest,
  service,
  TOLERANCE,
  tokensOf,
} from './support.ts';

let sampler: SamplingClient;
let model: TrainingClient;

beforeAll(async () => {
  sampler = await service.createSamplingClient({ baseModel: BASE_MODEL });
  model = await newModel({ rank: 4 });
});

test('greedy is deterministic, and the argmax', async () => {
  const options = { samplingParams: { max_tokens: 8, temperature: 0 }, topkSampleLogprobs: 1 };
  const prompt = tokensOf(8, 25);
  const [first, second] = [await drawOne(sampler, prompt, options), await drawOne(sampler, prompt, options)];
  expect(second.tokens).toEqual(first.tokens);
  expect(first.topk_logprobs?.map((row) => row?.[0]?.[0])).toEqual(first.tokens);
});

test('a seed reproduces, another differs', async () => {
  const prompt = tokensOf(8, 26);
  const draw = async (seed: number | bigint) =>
    (await drawOne(sampler, prompt, { samplingParams: { max_tokens: 12, seed, stop: [] } })).tokens;
  expect(await draw(11)).toEqual(await draw(11));
  const large = 2n ** 63n + 5n;
  expect(await draw(large)).toEqual(await draw(large));
  const drawn = [await draw(0), await draw(1), await draw(2), await draw(3)];
  expect(new Set(drawn.map(String)).size).toBeGreaterThan(1);
});

test('number and lengths of samples', async () => {
  const { sequences } = await sampler.sample({
    prompt: tokensOf(6, 27),
    numSamples: 3,
    samplingParams: { max_tokens: 5, stop: [] },
  });
  expect(
    sequences.map(({ tokens, logprobs, stop_reason }) => [tokens.length, logprobs?.length, stop_reason]),
  ).toEqual(Array(3).fill([5, 5, 'length']));
  expect(new Set(sequences.map(({ sequence_id }) => sequence_id)).size).toBe(3);
});

test('a stop token ends the sequence and is kept', async () => {
  const prompt = tokensOf(8, 28);
  const free = await drawOne(sampler, prompt, {
    samplingParams: { max_tokens: 8, temperature: 0, stop: [] },
  });
  const cut = free.tokens[3]!;
  const stopped = await drawOne(sampler, prompt, {
    samplingParams: { max_tokens: 8, temperature: 0, stop: [cut] },
  });
  expect(stopped.stop_reason).toBe('stop');
  expect(stopped.tokens).toEqual(free.tokens.slice(0, free.tokens.indexOf(cut) + 1));
});

test('a stop string ends the sequence and is kept', async () => {
  const tokenizer = await model.getTokenizer({ tokenizerId: process.env.COMPAT_TOKENIZER });
  const stops = async (seed: number) => {
    const prompt = tokensOf(8, seed);
    const samplingParams = { max_tokens: 10, temperature: 0 };
    const free = await drawOne(sampler, prompt, { samplingParams: { ...samplingParams, stop: [] } });
    const stop = tokenizer.decode([free.tokens[4]!]);
    if (!stop.trim() || stop.includes('\ufffd')) return false;
    const cut = await drawOne(sampler, prompt, { samplingParams: { ...samplingParams, stop: [stop] } });
    expect(cut.stop_reason).toBe('stop');
    expect(cut.tokens.length).toBeLessThanOrEqual(5);
    expect(cut.tokens).toEqual(free.tokens.slice(0, cut.tokens.length));
    expect(tokenizer.decode(cut.tokens)).toContain(stop);
    return true;
  };
  // A token may stand for no text of its own; one of several will.
  for (let seed = 29; seed < 60; seed++) if (await stops(seed)) return;
  expect.unreachable('no prompt was continued by a token with text');
});

test('sampled logprobs match scoring', async () => {
  const ids = tokensOf(7, 31);
  const { tokens, logprobs } = await drawOne(sampler, ids, {
    samplingParams: { max_tokens: 8, seed: 5, stop: [] },
  });
  const scored = (await promptLogprobs(sampler, [...ids, ...tokens])).slice(ids.length);
  expect(distance(logprobs!, scored)).toBeLessThanOrEqual(TOLERANCE);
});

test('prompt logprobs come when asked for, none at the first token', async () => {
  const prompt = tokensOf(9, 32);
  const samplingParams = { max_tokens: 1 };
  const { prompt_logprobs } = await sampler.sample({ prompt, samplingParams, includePromptLogprobs: true });
  expect(prompt_logprobs).toHaveLength(9);
  expect(prompt_logprobs?.[0]).toBeNull();
  expect(distance(prompt_logprobs!, await promptLogprobs(sampler, prompt))).toBeLessThanOrEqual(TOLERANCE);
  expect((await sampler.sample({ prompt, samplingParams })).prompt_logprobs).toBeUndefined();
});

test('the likeliest tokens of each prompt position', async () => {
  const { topk_prompt_logprobs: top, prompt_logprobs: own } = await sampler.sample({
    prompt: tokensOf(6, 33),
    samplingParams: { max_tokens: 1 },
    includePromptLogprobs: true,
    topkPromptLogprobs: 5,
  });
  expect(top).toHaveLength(6);
  expect(top?.[0]).toBeNull();
  for (const [index, row] of (top ?? []).slice(1).entries()) {
    const values = row!.map(([, value]) => value);
    expect(values).toEqual([...values].sort((a, b) => b - a));
    expect(values[0]).toBeGreaterThanOrEqual(own![index + 1]! - TOLERANCE);
  }
});

test('more than the context holds is a user error', async () => {
  const { supported_models } = await rest.getServerCapabilities();
  const { max_context_length } = supported_models.find(({ model_name }) => model_name === BASE_MODEL)!;
  const sample = sampler.sample({
    prompt: tokensOf(8, 34),
    samplingParams: { max_tokens: max_context_length },
  });
  const error: unknown = await sample.catch((reason) => reason);
  const isRefusal = error instanceof BadRequestError || error instanceof RequestFailedError;
  expect(isRefusal, String(error)).toBe(true);
  if (error instanceof RequestFailedError) expect(error.category).toBe('user');
});

test('many samples at once, each as it would be alone', async () => {
  const prompt = tokensOf(6, 35);
  const draw = (seed: number) =>
    drawOne(sampler, prompt, { samplingParams: { max_tokens: 4, seed, stop: [] } });
  const drawn = await Promise.all(Array.from({ length: 24 }, (_, seed) => draw(seed)));
  expect(drawn.map(({ tokens }) => tokens.length)).toEqual(Array(24).fill(4));
  expect((await draw(17)).tokens).toEqual(drawn[17]?.tokens);
});

test('a client made from a handle samples the same', async () => {
  const copy = SamplingClient.fromSamplerHandle(sampler.getSamplerHandle());
  const options = { samplingParams: { max_tokens: 5, seed: 1, stop: [] } };
  const prompt = tokensOf(6, 36);
  const [theirs, ours] = [await drawOne(copy, prompt, options), await drawOne(sampler, prompt, options)];
  copy.detach();
  expect(theirs.tokens).toEqual(ours.tokens);
  expect(theirs.sequence_id).not.toBe(ours.sequence_id);
});

test('a prompt of one token', async () => {
  expect(await promptLogprobs(sampler, [99])).toEqual([null]);
  const { sequences } = await sampler.sample({
    prompt: [99],
    numSamples: 2,
    samplingParams: { max_tokens: 3, seed: 1, stop: [] },
  });
  expect(sequences.map(({ tokens }) => tokens.length)).toEqual([3, 3]);
});

test('a prompt in pieces is one prompt', async () => {
  const ids = tokensOf(9, 70);
  const chunks = [ids.slice(0, 2), [], ids.slice(2, 3), ids.slice(3)].map((tokens) => ({
    type: 'encoded_text' as const,
    tokens,
  }));
  const pieces = await sampler.computeLogprobs({ chunks });
  expect(distance(pieces, await promptLogprobs(sampler, ids))).toBeLessThanOrEqual(TOLERANCE);
});

test('only the end of a prompt is scored when asked', async () => {
  const ids = tokensOf(11, 69);
  const tail = await promptLogprobs(sampler, ids, 4);
  expect(tail.slice(0, 7)).toEqual(Array(7).fill(null));
  expect(distance(tail.slice(7), (await promptLogprobs(sampler, ids)).slice(7))).toBeLessThanOrEqual(
    TOLERANCE,
  );
});

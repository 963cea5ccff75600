/** OpenAI's own client and Vercel's AI SDK against the OpenAI-compatible calls; what the model says is told by this client. */
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import type { Tokenizer } from '@anneal/tokenizer';
import { APICallError, generateText, jsonSchema, streamText, tool } from 'ai';
import OpenAI from 'openai';
import { beforeAll, expect, test } from 'vitest';
import type { SamplingClient } from '../src/index.ts';
import {
  BASE_MODEL,
  BASE_URL,
  crossEntropy,
  distance,
  newModel,
  promptLogprobs,
  service,
  step,
  TOLERANCE,
  tokensOf,
  unique,
} from './support.ts';

const PREFIXES = ['/v1', '/oai/api/v1'];
const apiKey = process.env.TINKER_API_KEY!;
const openAi = (prefix = '/v1', key = apiKey) =>
  new OpenAI({ baseURL: `${BASE_URL}${prefix}`, apiKey: key, maxRetries: 0 });
const client = openAi();
const vercel = (prefix = '/v1', key = apiKey) =>
  createOpenAICompatible({
    name: 'anneal',
    baseURL: `${BASE_URL}${prefix}`,
    apiKey: key,
    includeUsage: true,
  });

const question = 'What is red?';
const messages = [{ role: 'user' as const, content: question }];
/** A model of random weights seldom stops by itself. */
const greedy = { temperature: 0, max_tokens: 12 };

let sampler: SamplingClient;
let tokenizer: Tokenizer;
let chatPrompt: number[];

beforeAll(async () => {
  sampler = await service.createSamplingClient({ baseModel: BASE_MODEL });
  tokenizer = await (await newModel({ rank: 4 })).getTokenizer();
  const text = tokenizer.applyChatTemplate(messages, { addGenerationPrompt: true });
  chatPrompt = tokenizer.encode(text, { addSpecialTokens: false });
});

/** What the model goes on with, likeliest tokens, and its text. */
async function continued(prompt: readonly number[]) {
  const { sequences } = await sampler.sample({ prompt, samplingParams: greedy });
  const { tokens, logprobs } = sequences[0]!;
  return {
    logprobs: logprobs!,
    text: tokenizer.decode(tokens, { skipSpecialTokens: true }),
    count: tokens.length,
  };
}

test.each(PREFIXES)('models are listed and found by name and path, under %s', async (prefix) => {
  const { models } = openAi(prefix);
  const ids = [];
  for await (const { id } of models.list()) ids.push(id);
  expect(ids).toEqual([BASE_MODEL]);
  const { path } = await (await newModel({ rank: 4 })).saveWeightsForSampler(unique('openai'));
  for (const id of [BASE_MODEL, path])
    expect(await models.retrieve(id)).toMatchObject({ id, object: 'model' });
});

test.each(PREFIXES)('a chat answers what sampling the template’s prompt gives, under %s', async (prefix) => {
  const expected = await continued(chatPrompt);
  const request = { model: BASE_MODEL, messages, ...greedy, logprobs: true, top_logprobs: 3 };
  const answer = await openAi(prefix).chat.completions.create(request);
  const [{ message, logprobs, finish_reason }] = answer.choices as [OpenAI.ChatCompletion.Choice];
  expect([message.content, finish_reason]).toEqual([expected.text, 'length']);
  const content = logprobs!.content!;
  expect(
    distance(
      content.map(({ logprob }) => logprob),
      expected.logprobs,
    ),
  ).toBeLessThan(TOLERANCE);
  for (const { logprob, top_logprobs: top } of content) {
    expect(top).toHaveLength(3);
    expect(top[0]!.logprob).toBeCloseTo(logprob, 4);
    expect(top[2]!.logprob).toBeLessThanOrEqual(top[1]!.logprob);
  }
  expect(answer.usage).toMatchObject({
    prompt_tokens: chatPrompt.length,
    completion_tokens: expected.count,
    total_tokens: chatPrompt.length + expected.count,
  });
});

test('a streamed chat says the same, and ends with its usage', async () => {
  const whole = await client.chat.completions.create({ model: BASE_MODEL, messages, ...greedy, n: 2 });
  const usages: unknown[] = [];
  const stream = client.chat.completions
    .stream({ model: BASE_MODEL, messages, ...greedy, n: 2, stream_options: { include_usage: true } })
    .on('chunk', ({ usage }) => usages.push(usage));
  const streamed = await stream.finalChatCompletion();
  const said = ({ choices }: Pick<OpenAI.ChatCompletion, 'choices'>) =>
    choices.map(({ index, message, finish_reason: end }) => [index, message.role, message.content, end]);
  expect(said(streamed)).toEqual(said(whole));
  expect(usages.length).toBeGreaterThan(4);
  expect(usages.slice(0, -1).every((usage) => usage === null)).toBe(true);
  expect(usages.at(-1)).toMatchObject({ completion_tokens: whole.usage!.completion_tokens });
});

test('completions of several prompts, streamed and whole, with the scores of the sampler', async () => {
  const prompts = [tokensOf(8, 41), tokensOf(20, 42)];
  const request = { model: BASE_MODEL, prompt: prompts, ...greedy, logprobs: 2 };
  const { choices } = await client.completions.create(request);
  for (const [at, prompt] of prompts.entries()) {
    const expected = await continued(prompt);
    const { text, logprobs } = choices[at]!;
    expect(text).toBe(expected.text);
    expect(distance(logprobs!.token_logprobs!, expected.logprobs)).toBeLessThan(TOLERANCE);
  }
  const texts = ['', ''];
  const stream = await client.completions.create({ ...request, logprobs: null, stream: true });
  for await (const { choices } of stream) for (const { index, text } of choices) texts[index] += text;
  expect(texts).toEqual(choices.map(({ text }) => text));
});

test('an echoed prompt is scored as the sampler scores it', async () => {
  const prompt = tokensOf(16, 43);
  const request = { model: BASE_MODEL, prompt, echo: true, logprobs: 0, max_tokens: 0 };
  const { choices, usage } = await client.completions.create(request);
  const scores = choices[0]!.logprobs!.token_logprobs! as (number | null)[];
  const expected = await promptLogprobs(sampler, prompt);
  expect([scores[0], usage?.completion_tokens]).toEqual([null, 0]);
  expect(distance(scores.slice(1), expected.slice(1))).toBeLessThan(TOLERANCE);
});

test('several samples differ, a seed repeats them, and a stop string ends them unseen', async () => {
  const request = { model: BASE_MODEL, messages, max_tokens: 12, n: 4 };
  const draw = async (seed: number) =>
    (await client.chat.completions.create({ ...request, seed })).choices.map(
      ({ message }) => message.content,
    );
  const first = await draw(5);
  expect(new Set(first).size).toBe(4);
  expect(await draw(5)).toEqual(first);
  expect(await draw(6)).not.toEqual(first);
  const { text } = await continued(chatPrompt);
  const stop = text.slice(4, 6);
  const stopped = await client.chat.completions.create({ model: BASE_MODEL, messages, ...greedy, stop });
  const [{ message, finish_reason }] = stopped.choices as [OpenAI.ChatCompletion.Choice];
  expect([message.content, finish_reason]).toEqual([text.slice(0, text.indexOf(stop)), 'stop']);
});

test('a checkpoint answers with what it was trained on', async () => {
  const model = await newModel();
  const ids = tokensOf(12, 44);
  for (let count = 0; count < 6; count++) await step(model, [crossEntropy(ids)], { learning_rate: 2e-2 });
  const { path } = await model.saveWeightsForSampler(unique('openai'));
  const trained = await service.createSamplingClient({ modelPath: path });
  const request = { prompt: ids, echo: true, logprobs: 0, max_tokens: 0 };
  const scores = async (name: string) => {
    const { choices } = await client.completions.create({ model: name, ...request });
    return (choices[0]!.logprobs!.token_logprobs! as (number | null)[]).slice(1);
  };
  const expected = (await promptLogprobs(trained, ids)).slice(1);
  expect(distance(await scores(path), expected)).toBeLessThan(TOLERANCE);
  expect(distance(await scores(BASE_MODEL), expected)).toBeGreaterThan(0.1);
});

test('refusals are the errors of OpenAI’s client', async () => {
  const create = (more: object) => client.chat.completions.create({ model: BASE_MODEL, messages, ...more });
  await expect(openAi('/v1', 'tml-wrong-key-000').models.list()).rejects.toBeInstanceOf(
    OpenAI.AuthenticationError,
  );
  const unknown = create({ model: 'nobody/nothing' });
  await expect(unknown).rejects.toBeInstanceOf(OpenAI.NotFoundError);
  await expect(unknown).rejects.toMatchObject({ code: 'model_not_found', param: 'model' });
  await expect(client.models.retrieve('tinker://none:train:0/weights/x')).rejects.toBeInstanceOf(
    OpenAI.NotFoundError,
  );
  const wrong: [object, string][] = [
    [{ temperature: -1 }, 'temperature'],
    [{ n: 0 }, 'n'],
    [{ response_format: { type: 'json_object' } }, 'response_format.type'],
    [{ stream: true, stop: [''] }, 'stop.0'],
  ];
  for (const [more, param] of wrong) {
    const refused = create(more);
    await expect(refused).rejects.toBeInstanceOf(OpenAI.BadRequestError);
    await expect(refused).rejects.toMatchObject({ type: 'invalid_request_error', param });
  }
});

const weather = {
  description: 'The weather of a city',
  inputSchema: jsonSchema<{ city: string }>({
    type: 'object',
    properties: { city: { type: 'string' } },
    required: ['city'],
  }),
};

test('tools that the chat template would not show are refused', async () => {
  const { description, inputSchema } = weather;
  const shown = {
    name: 'weather',
    description,
    parameters: (await inputSchema.jsonSchema) as object as never,
  };
  const refused = client.chat.completions.create({
    model: BASE_MODEL,
    messages,
    tools: [{ type: 'function', function: shown }],
  });
  await expect(refused).rejects.toBeInstanceOf(OpenAI.BadRequestError);
  await expect(refused).rejects.toMatchObject({ param: 'tools', message: expect.stringMatching(/template/) });
});

test.each(PREFIXES)('the AI SDK generates, streams and counts the same, under %s', async (prefix) => {
  const options = { temperature: 0, maxOutputTokens: 12, maxRetries: 0 };
  const expected = await continued(chatPrompt);
  const chat = { model: vercel(prefix)(BASE_MODEL), prompt: question, ...options };
  const { text, finishReason, usage } = await generateText(chat);
  expect([text, finishReason]).toEqual([expected.text, 'length']);
  expect(usage).toMatchObject({ inputTokens: chatPrompt.length, outputTokens: expected.count });
  const streamed = streamText(chat);
  const pieces: string[] = [];
  for await (const piece of streamed.textStream) pieces.push(piece);
  expect(pieces.length).toBeGreaterThan(2);
  expect(pieces.join('')).toBe(text);
  expect(await streamed.usage).toMatchObject({ outputTokens: usage.outputTokens });
});

test('the AI SDK completes plain text', async () => {
  // It writes a conversation into the prompt of a completion, in this form.
  const expected = await continued(tokenizer.encode('user:\nred green\n\nassistant:\n'));
  const model = vercel().completionModel(BASE_MODEL);
  const { text, usage } = await generateText({
    model,
    prompt: 'red green',
    temperature: 0,
    maxOutputTokens: 12,
    maxRetries: 0,
  });
  expect([text, usage.outputTokens]).toEqual([expected.text, expected.count]);
});

test('the AI SDK tells of refusals by status', async () => {
  const failing = (key: string, model: string, more: object = {}) =>
    generateText({ model: vercel('/v1', key)(model), prompt: question, maxRetries: 0, ...more }).then(
      () => expect.unreachable('it was answered'),
      (error: unknown) => {
        expect(APICallError.isInstance(error)).toBe(true);
        const { statusCode, message } = error as APICallError;
        return [statusCode, message];
      },
    );
  expect(await failing('tml-wrong-key-000', BASE_MODEL)).toEqual([401, expect.stringContaining('key')]);
  expect(await failing(apiKey, 'nobody')).toEqual([404, expect.stringContaining('"nobody" is not served')]);
  expect(await failing(apiKey, BASE_MODEL, { presencePenalty: 1 })).toEqual([
    400,
    expect.stringContaining('presence_penalty'),
  ]);
  const tools = { weather: tool(weather) };
  expect(await failing(apiKey, BASE_MODEL, { tools })).toEqual([400, expect.stringContaining('tools')]);
});

/** The OpenAI-compatible calls, by plain HTTP and by OpenAI's own client, over an engine that says what a test wants. */
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import type { BaseModelInfo, SampleOptions, SampleRequest, SampleResult } from '@anneal/engine';
import { loadTokenizer } from '@anneal/tokenizer/node';
import { generateText, jsonSchema, stepCountIs, tool } from 'ai';
import OpenAI from 'openai';
import { afterAll, expect, test } from 'vitest';
import { FakeEngine } from './fake-engine.ts';
import { onEachDatabase, type TestServer } from './harness.ts';

const FOLDER = join(import.meta.dirname, '../../../packages/tokenizer/fixtures/qwen2');
const tokenizer = await loadTokenizer(FOLDER);

/** The same tokenizer with a template that shows tools. */
const withToolTemplate = mkdtempSync(join(tmpdir(), 'anneal-tools-'));
cpSync(FOLDER, withToolTemplate, { recursive: true });
const cases = JSON.parse(readFileSync(join(FOLDER, '../chat_cases.json'), 'utf8'));
const configFile = join(FOLDER, 'tokenizer_config.json');
const config = { ...JSON.parse(readFileSync(configFile, 'utf8')), chat_template: cases.templates.tools };
writeFileSync(join(withToolTemplate, 'tokenizer_config.json'), JSON.stringify(config));
afterAll(() => rmSync(withToolTemplate, { recursive: true }));

const END = tokenizer.tokenToId('<|im_end|>')!;

/** Says the same tokens to everybody, one at a time; ends as the real engine does. */
class TalkingEngine extends FakeEngine {
  readonly requests: SampleRequest[] = [];
  says: number[] = [...tokenizer.encode('Paris is it. More'), END];
  /** Where the tokenizer is. */
  folder = FOLDER;
  /** Awaited after each token. */
  pause: (signal: AbortSignal | undefined) => Promise<void> = async () => {};

  override async baseModels(): Promise<BaseModelInfo[]> {
    const models = await super.baseModels();
    return models.map((model) => ({ ...model, folder: this.folder, eosTokenIds: [END] }));
  }

  override async sample(request: SampleRequest, options?: SampleOptions): Promise<SampleResult> {
    this.requests.push(request);
    const { maxTokens = 100, stop } = request.params;
    const tokens: number[] = [];
    let stopped = false;
    for (const token of this.says.slice(0, maxTokens)) {
      tokens.push(token);
      const delta = { tokens: Int32Array.of(token), logprobs: Float32Array.of(-0.5) };
      for (let sequence = 0; sequence < request.numSamples; sequence += 1) {
        options?.onProgress?.({ sequence, ...delta });
      }
      await this.pause(options?.signal);
      const text = tokenizer.decode(tokens);
      stopped = token === END || (stop?.strings ?? []).some((part) => text.includes(part));
      if (stopped) break;
    }
    const k = request.topkSampleLogprobs;
    const sequence = {
      stopReason: stopped ? ('stop' as const) : ('length' as const),
      tokens: Int32Array.from(tokens),
      logprobs: new Float32Array(tokens.length).fill(-0.5),
      ...(k > 0 ? { topk: rows(tokens, k) } : {}),
    };
    return {
      sequences: Array.from({ length: request.numSamples }, () => sequence),
      promptCacheHitTokens: 0,
      ...(request.promptLogprobs
        ? { promptLogprobs: Float32Array.from(request.prompt, (_, at) => (at === 0 ? Number.NaN : -1.5)) }
        : {}),
    };
  }
}

function rows(tokens: number[], k: number) {
  const tokenIds = Int32Array.from(tokens.flatMap((token) => [token, ...new Array(k - 1).fill(0)]));
  const logprobs = Float32Array.from(tokens.flatMap(() => [-0.5, ...new Array(k - 1).fill(-4)]));
  return { k, length: tokens.length, tokenIds, logprobs };
}

async function client(server: TestServer, key = server.key, prefix = '/v1'): Promise<OpenAI> {
  const listening = server.app.http.server.address();
  const port =
    listening && typeof listening === 'object'
      ? listening.port
      : Number(new URL(await server.app.http.listen({ port: 0 })).port);
  return new OpenAI({ apiKey: key, baseURL: `http://127.0.0.1:${port}${prefix}`, maxRetries: 0 });
}

async function all<T>(stream: AsyncIterable<T>): Promise<T[]> {
  const items: T[] = [];
  for await (const item of stream) items.push(item);
  return items;
}

const question = [{ role: 'user' as const, content: 'What is the capital of France?' }];

onEachDatabase((open) => {
  const start = async (folder = FOLDER) => {
    const engine = new TalkingEngine();
    engine.folder = folder;
    const server = await open({ engine });
    return { engine, server, openai: await client(server) };
  };

  test("OpenAI's client lists models and reads one", async () => {
    const { openai } = await start();
    expect((await openai.models.list()).data.map(({ id }) => id)).toEqual(['tiny']);
    expect(await openai.models.retrieve('tiny')).toMatchObject({ id: 'tiny', object: 'model' });
  });

  test('a chat is rendered by the template; what ends it is not in the answer', async () => {
    const { engine, openai } = await start();
    const answer = await openai.chat.completions.create({ model: 'tiny', messages: question, seed: 7 });
    expect(answer.choices[0]).toMatchObject({
      message: { role: 'assistant', content: 'Paris is it. More' },
      finish_reason: 'stop',
    });
    const prompt = tokenizer.applyChatTemplate(question, { addGenerationPrompt: true });
    const ids = tokenizer.encode(prompt, { addSpecialTokens: false });
    expect([...engine.requests[0]!.prompt]).toEqual(ids);
    expect(engine.requests[0]!.params).toMatchObject({ seed: 7n, temperature: 1, topP: 1 });
    const completion = engine.says.length;
    expect(answer.usage).toMatchObject({
      prompt_tokens: ids.length,
      completion_tokens: completion,
      total_tokens: ids.length + completion,
    });
  });

  test('completions: several prompts and samples, echo, a stop string that is left out', async () => {
    const { openai } = await start();
    const answer = await openai.completions.create({
      model: 'tiny',
      prompt: ['one', 'two'],
      n: 2,
      echo: true,
      stop: ['.'],
      max_tokens: 50,
    });
    expect(answer.choices.map(({ text }) => text)).toEqual([
      'oneParis is it',
      'oneParis is it',
      'twoParis is it',
      'twoParis is it',
    ]);
    expect(answer.choices.map(({ index, finish_reason }) => [index, finish_reason])).toEqual(
      [0, 1, 2, 3].map((index) => [index, 'stop']),
    );
    const ids = await openai.completions.create({ model: 'tiny', prompt: [5, 6, 7], max_tokens: 1 });
    expect(ids.choices[0]!.finish_reason).toBe('length');
    expect(ids.usage?.prompt_tokens).toBe(3);
  });

  test('a stream says the same in pieces, holds back a stop string, and ends with usage', async () => {
    const { engine, openai } = await start();
    const stream = await openai.chat.completions.create({
      model: 'tiny',
      messages: question,
      stop: 'it. Mo',
      stream: true,
      stream_options: { include_usage: true },
    });
    const chunks = await all(stream);
    const texts = chunks.flatMap(({ choices }) => choices.map(({ delta }) => delta.content ?? ''));
    expect(texts.join('')).toBe('Paris is ');
    expect(texts.filter((text) => text !== '').length).toBeGreaterThan(2);
    expect(chunks[0]!.choices[0]!.delta.role).toBe('assistant');
    expect(chunks.at(-2)!.choices[0]!.finish_reason).toBe('stop');
    expect(chunks.at(-1)!.usage?.prompt_tokens).toBe(engine.requests[0]!.prompt.length);
    expect(chunks.at(-1)!.usage?.completion_tokens).toBeGreaterThan(0);
  });

  test('no half characters are streamed', async () => {
    const { engine, openai } = await start();
    engine.says = [...tokenizer.encode('é 😀 日本'), END];
    expect(engine.says.length).toBeGreaterThan(6);
    const stream = await openai.completions.create({
      model: 'tiny',
      prompt: 'x',
      max_tokens: 50,
      stream: true,
    });
    const texts = (await all(stream)).map(({ choices }) => choices[0]!.text);
    expect(texts.join('')).toBe('é 😀 日本');
    for (const text of texts) expect(text).not.toMatch(/\p{Cs}|\uFFFD/u);
    const cut = await openai.completions.create({ model: 'tiny', prompt: 'x', max_tokens: 1 });
    expect(cut.choices[0]!.text).not.toContain('\uFFFD');
  });

  test('log-probabilities of answers and prompts', async () => {
    const { openai } = await start();
    const chat = await openai.chat.completions.create({
      model: 'tiny',
      messages: question,
      logprobs: true,
      top_logprobs: 2,
    });
    const content = chat.choices[0]!.logprobs!.content!;
    expect(content.map(({ token }) => token).join('')).toBe('Paris is it. More');
    expect(content[0]).toMatchObject({ logprob: -0.5, bytes: [...Buffer.from(content[0]!.token)] });
    expect(content[0]!.top_logprobs.map(({ logprob }) => logprob)).toEqual([-0.5, -4]);
    const scored = await openai.completions.create({
      model: 'tiny',
      prompt: 'Paris is',
      echo: true,
      logprobs: 0,
      max_tokens: 0,
    });
    const { tokens, token_logprobs: logprobs, text_offset: offsets } = scored.choices[0]!.logprobs!;
    expect(scored.choices[0]!.text).toBe('Paris is');
    expect(tokens!.join('')).toBe('Paris is');
    expect(logprobs).toEqual(tokens!.map((_, at) => (at === 0 ? null : -1.5)));
    expect(offsets!.map((offset, at) => 'Paris is'.startsWith(tokens![at]!, offset))).not.toContain(false);
    expect(scored.usage?.completion_tokens).toBe(0);
  });

  test('a checkpoint is sampled by its path, by its owner only', async () => {
    const { engine, server, openai } = await start();
    const path = await server.saveState(await server.model(), 1, 'a');
    await openai.completions.create({ model: path, prompt: 'x' });
    expect(engine.calls).toContain('openSampler:checkpoint');
    expect(engine.requests[0]!.samplerId).toMatch(/^adapter:/);
    const other = await client(server, server.otherKey);
    await expect(other.completions.create({ model: path, prompt: 'x' })).rejects.toMatchObject({
      status: 404,
      code: 'model_not_found',
    });
  });

  test('errors have the shape that OpenAI clients read', async () => {
    const { server, openai } = await start();
    const wrong = await client(server, 'tml-wrong');
    await expect(wrong.models.list()).rejects.toMatchObject({ status: 401, code: 'invalid_api_key' });
    const create = (more: object) =>
      openai.chat.completions.create({ model: 'tiny', messages: question, ...more });
    await expect(create({ model: 'huge' })).rejects.toMatchObject({
      status: 404,
      code: 'model_not_found',
      param: 'model',
    });
    const refused: [object, string][] = [
      [{ response_format: { type: 'json_schema' } }, 'response_format.type'],
      [{ logit_bias: { 5: 1 } }, 'logit_bias'],
      [{ presence_penalty: 0.5 }, 'presence_penalty'],
      [{ frequency_penalty: -1 }, 'frequency_penalty'],
      [{ tool_choice: 'required' }, 'tool_choice'],
      [{ top_logprobs: 3 }, 'top_logprobs'],
      [{ stream_options: { include_usage: true } }, 'stream_options'],
      [{ max_tokens: 1, max_completion_tokens: 2 }, 'max_tokens'],
      [{ nonsense: 1 }, 'nonsense'],
      [
        { messages: [{ role: 'user', content: [{ type: 'image_url', image_url: {} }] }] },
        'messages.0.content',
      ],
    ];
    for (const [more, param] of refused) {
      await expect(create(more)).rejects.toMatchObject({
        status: 400,
        type: 'invalid_request_error',
        param,
        message: expect.stringContaining(param),
      });
    }
    const complete = (more: object) => openai.completions.create({ model: 'tiny', prompt: 'x', ...more });
    await expect(complete({ best_of: 3 })).rejects.toMatchObject({ status: 400, param: 'best_of' });
    await expect(complete({ suffix: 'x' })).rejects.toMatchObject({ status: 400, param: 'suffix' });
    await expect(complete({ max_tokens: 512 })).rejects.toMatchObject({ code: 'context_length_exceeded' });
    await expect(openai.get('/embeddings')).rejects.toMatchObject({ status: 404 });
    // Half an escaped letter: no route is asked.
    await expect(openai.get('/models/%C3')).rejects.toMatchObject({
      status: 400,
      type: 'invalid_request_error',
      requestID: expect.any(String),
    });
  });

  test('tools, calls and results reach a template that knows them', async () => {
    const { engine, server } = await start(withToolTemplate);
    const openai = await client(server, server.key, '/oai/api/v1');
    const tools = [{ type: 'function' as const, function: { name: 'weather', parameters: {} } }];
    const messages = [
      ...question,
      {
        role: 'assistant' as const,
        tool_calls: [
          { id: 'a', type: 'function' as const, function: { name: 'weather', arguments: '{"city":"Rome"}' } },
        ],
      },
      { role: 'tool' as const, tool_call_id: 'a', content: 'sunny' },
    ];
    await openai.chat.completions.create({ model: 'tiny', messages, tools });
    const prompt = tokenizer.decode(engine.requests[0]!.prompt);
    for (const part of ['"name": "weather"', 'weather(city=Rome, )', 'tool: sunny'])
      expect(prompt).toContain(part);
    await openai.chat.completions.create({ model: 'tiny', messages, tools, tool_choice: 'none' });
    expect(tokenizer.decode(engine.requests[1]!.prompt)).not.toContain('"name": "weather"');
    const broken = structuredClone(messages) as typeof messages;
    (broken[1] as (typeof messages)[1] & { tool_calls: { function: { arguments: string } }[] })
      .tool_calls[0]!.function.arguments = '{';
    await expect(openai.chat.completions.create({ model: 'tiny', messages: broken })).rejects.toMatchObject({
      status: 400,
      param: 'messages.1.tool_calls.0.function.arguments',
    });
  });

  test('calls that the model writes are told from text, at once and streamed, also to the AI SDK', async () => {
    const { engine, server, openai } = await start(withToolTemplate);
    const written =
      'I will look.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>';
    const other = '\n<tool_call>\n{"name": "clock"}\n</tool_call>';
    engine.says = [...tokenizer.encode(written + other), END];
    const tools = ['weather', 'clock'].map((name) => ({ type: 'function' as const, function: { name } }));
    const request = { model: 'tiny', messages: question, tools, max_tokens: 200 };
    const whole = await openai.chat.completions.create(request);
    const [{ message, finish_reason }] = whole.choices as [OpenAI.ChatCompletion.Choice];
    const called = ({ tool_calls: calls }: OpenAI.ChatCompletionMessage) =>
      calls?.map((call) => call.type === 'function' && [call.function.name, call.function.arguments]);
    const expected = [
      ['weather', '{"city":"Rome"}'],
      ['clock', '{}'],
    ];
    expect([message.content, called(message), finish_reason]).toEqual([
      'I will look.',
      expected,
      'tool_calls',
    ]);
    expect(new Set(message.tool_calls?.map(({ id }) => id)).size).toBe(2);
    const streamed = await openai.chat.completions.stream(request).finalMessage();
    expect([streamed.content, called(streamed)]).toEqual(['I will look.', expected]);

    const asked: unknown[] = [];
    const inputSchema = jsonSchema<{ city: string }>({ type: 'object' });
    const execute = async (input: { city: string }) => {
      asked.push(input);
      engine.says = [...tokenizer.encode('It is sunny.'), END];
      return 'sunny';
    };
    engine.says = [...tokenizer.encode(written), END];
    const provider = createOpenAICompatible({ name: 'anneal', baseURL: openai.baseURL, apiKey: server.key });
    const { text, steps } = await generateText({
      model: provider('tiny'),
      prompt: 'Rome?',
      tools: { weather: tool({ inputSchema, execute }) },
      stopWhen: stepCountIs(2),
      maxOutputTokens: 120,
    });
    expect([text, asked, steps.length]).toEqual(['It is sunny.', [{ city: 'Rome' }], 2]);
    expect(tokenizer.decode(engine.requests.at(-1)!.prompt)).toContain('tool: sunny');
  });

  test('what only looks like a call is text, and without tools nothing is a call', async () => {
    const { engine, openai } = await start(withToolTemplate);
    const tools = [{ type: 'function' as const, function: { name: 'weather' } }];
    const say = async (said: string, more: object = { tools }) => {
      engine.says = [...tokenizer.encode(said), END];
      const request = { model: 'tiny', messages: question, max_tokens: 200, ...more };
      const whole = await openai.chat.completions.create(request);
      const streamed = await openai.chat.completions.stream(request).finalChatCompletion();
      for (const { choices } of [whole, streamed]) {
        expect(choices[0]).toMatchObject({ message: { content: said }, finish_reason: 'stop' });
        expect(choices[0]!.message.tool_calls ?? []).toEqual([]);
      }
    };
    await say('<tool_call>\n{"name": \n</tool_call> is how');
    await say('a <tool_call> that never ends');
    await say('one < two <tool');
    await say('<tool_call>\n{"name": "weather"}\n</tool_call>', {});
  });

  test('tools that the template would not show are refused', async () => {
    const { engine, openai } = await start();
    const tools = [{ type: 'function' as const, function: { name: 'weather' } }];
    const create = (more: object) =>
      openai.chat.completions.create({ model: 'tiny', messages: question, tools, ...more });
    await expect(create({})).rejects.toMatchObject({ status: 400, param: 'tools' });
    expect(engine.requests).toEqual([]);
    await create({ tool_choice: 'none' });
  });

  test('sampling ends when the client goes away', async () => {
    const { engine, openai } = await start();
    let aborted = (): void => {};
    const gone = new Promise<void>((resolve) => {
      aborted = resolve;
    });
    engine.pause = (signal) =>
      engine.requests.length === 0
        ? Promise.resolve()
        : new Promise((_resolve, reject) => {
            signal?.addEventListener('abort', () => {
              aborted();
              reject(new Error('aborted'));
            });
          });
    const stream = await openai.completions.create({ model: 'tiny', prompt: 'x', stream: true });
    for await (const chunk of stream) {
      expect(chunk.choices[0]!.text).not.toBe('');
      break;
    }
    await gone;
  });
});

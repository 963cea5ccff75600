import { randomUUID } from 'node:crypto';
import type { Delta, Generation, ScoredToken } from '../../services/openai-generation.ts';
import { chatPrompt, shownTools } from '../../services/openai-prompts.ts';
import { OpenAiRefusal } from '../../services/openai-refusal.ts';
import { type ToolCall, ToolCallReader } from '../../services/openai-tool-calls.ts';
import { ChatCompletionRequest } from '../../wire/openai-requests.ts';
import { ChatCompletion, ChatCompletionChunk, openAiAnswers } from '../../wire/openai-responses.ts';
import type { Routes } from '../route.ts';
import { collect, nowSeconds, samplingParams, type Text, usageOf, wantsUsage } from './generation.ts';
import { sendEvents, untilGone } from './sse.ts';

/** Answers in a conversation. */
export const chatRoutes: Routes = async (app, { services: { openAi } }) => {
  app.post(
    '/chat/completions',
    {
      schema: {
        tags: ['openai'],
        body: ChatCompletionRequest,
        response: openAiAnswers(ChatCompletion, ChatCompletionChunk),
      },
    },
    async (request, reply) => {
      const { body, owner } = request;
      const logprobs = candidateCount(body);
      const includeUsage = wantsUsage(body);
      const maxTokens = maxTokensOf(body);
      const model = await openAi.models.find(body.model, owner);
      const tokenizer = await openAi.models.tokenizer(model);
      const generation: Generation = {
        model,
        tokenizer,
        prompts: [chatPrompt(body, tokenizer)],
        n: body.n ?? 1,
        params: samplingParams(body, maxTokens),
        logprobs,
        echo: false,
      };
      const head = { id: `chatcmpl-${randomUUID()}`, created: nowSeconds(), model: body.model };
      const scored = logprobs !== undefined;
      const readsCalls = shownTools(body).length > 0;
      const signal = untilGone(reply);
      if (body.stream) return await sendEvents(request, reply, chunks());
      const { deltas, usage } = openAi.generator.start(generation, signal);
      const texts = await collect(deltas, generation.n);
      const choices = texts.map((text, index) => choiceOf(index, text, { scored, readsCalls }));
      return { ...head, object: 'chat.completion', choices, usage: usageOf(usage) };

      async function* chunks(): AsyncGenerator<object> {
        const { deltas, usage } = openAi.generator.start(generation, signal);
        const chunk = { ...head, object: 'chat.completion.chunk' };
        const noUsage = includeUsage ? { usage: null } : {};
        const chunkers = Array.from({ length: generation.n }, () => new Chunker({ scored, readsCalls }));
        for await (const delta of deltas) {
          yield { ...chunk, choices: [chunkers[delta.index]!.next(delta)], ...noUsage };
        }
        if (includeUsage) yield { ...chunk, choices: [], usage: usageOf(usage) };
      }
    },
  );
};

/** How many candidates to score at each position; undefined without log-probabilities. */
function candidateCount(body: ChatCompletionRequest): number | undefined {
  if (body.logprobs) return body.top_logprobs ?? 0;
  if (!body.top_logprobs) return undefined;
  throw new OpenAiRefusal('invalid_request', 'top_logprobs: it needs logprobs', { param: 'top_logprobs' });
}

function maxTokensOf(body: ChatCompletionRequest): number | undefined {
  const { max_tokens: older, max_completion_tokens: newer } = body;
  if (older != null && newer != null && older !== newer) {
    const message = `max_tokens: ${older} contradicts max_completion_tokens ${newer}: give one of them`;
    throw new OpenAiRefusal('invalid_request', message, { param: 'max_tokens' });
  }
  return newer ?? older ?? undefined;
}

interface Reading {
  scored: boolean;
  /** Tools were shown to the model: what it writes may be calls. */
  readsCalls: boolean;
}

function choiceOf(index: number, { text, tokens, finish }: Text, { scored, readsCalls }: Reading) {
  const reader = new ToolCallReader();
  const said = readsCalls ? reader.push(text) : { text, calls: [] };
  const content = said.text + (readsCalls ? reader.finish().text : '');
  const calls = said.calls.length > 0 ? { tool_calls: said.calls.map(toolCallOf) } : {};
  return {
    index,
    message: {
      role: 'assistant',
      content: content === '' && said.calls.length > 0 ? null : content,
      ...calls,
      refusal: null,
    },
    logprobs: scored ? logprobsOf(tokens) : null,
    finish_reason: finishOf(finish, said.calls.length),
  };
}

/** The events of one text, in order. */
class Chunker {
  readonly #reading: Reading;
  readonly #reader = new ToolCallReader();
  #begun = false;

  constructor(reading: Reading) {
    this.#reading = reading;
  }

  next({ index, text, tokens, finish }: Delta) {
    const { scored, readsCalls } = this.#reading;
    const before = this.#reader.count;
    const said = readsCalls ? this.#reader.push(text) : { text, calls: [] };
    const rest = readsCalls && finish !== null ? this.#reader.finish().text : '';
    const calls = said.calls.map((call, at) => ({ index: before + at, ...toolCallOf(call) }));
    const role = this.#begun ? {} : { role: 'assistant' };
    this.#begun = true;
    return {
      index,
      delta: { ...role, content: said.text + rest, ...(calls.length > 0 ? { tool_calls: calls } : {}) },
      logprobs: scored ? logprobsOf(tokens) : null,
      finish_reason: finishOf(finish, this.#reader.count),
    };
  }
}

function toolCallOf({ id, name, arguments: given }: ToolCall) {
  return { id, type: 'function', function: { name, arguments: given } };
}

/** A text that was cut is not whole, whatever calls it holds. */
function finishOf(finish: Delta['finish'], calls: number): Delta['finish'] | 'tool_calls' {
  return finish === 'stop' && calls > 0 ? 'tool_calls' : finish;
}

function logprobsOf(tokens: ScoredToken[]) {
  return {
    content: tokens.map(({ text, logprob, top }) => ({
      ...scoreOf(text, logprob ?? 0),
      top_logprobs: top.map((candidate) => scoreOf(candidate.text, candidate.logprob)),
    })),
    refusal: null,
  };
}

/** Bytes are null where a token is a part of a character, which has no text. */
function scoreOf(token: string, logprob: number) {
  const bytes = token.includes('\uFFFD') ? null : [...new TextEncoder().encode(token)];
  return { token, logprob, bytes };
}

import { randomUUID } from 'node:crypto';
import type { Delta, Generation, ScoredToken } from '../../services/openai-generation.ts';
import { chatPrompt } from '../../services/openai-prompts.ts';
import { OpenAiRefusal } from '../../services/openai-refusal.ts';
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
      const signal = untilGone(reply);
      if (body.stream) return await sendEvents(request, reply, chunks());
      const { deltas, usage } = openAi.generator.start(generation, signal);
      const texts = await collect(deltas, generation.n);
      const choices = texts.map((text, index) => choiceOf(index, text, scored));
      return { ...head, object: 'chat.completion', choices, usage: usageOf(usage) };

      async function* chunks(): AsyncGenerator<object> {
        const { deltas, usage } = openAi.generator.start(generation, signal);
        const chunk = { ...head, object: 'chat.completion.chunk' };
        const noUsage = includeUsage ? { usage: null } : {};
        const begun = new Set<number>();
        for await (const delta of deltas) {
          const role = begun.has(delta.index) ? {} : { role: 'assistant' };
          begun.add(delta.index);
          yield { ...chunk, choices: [chunkChoiceOf(delta, role, scored)], ...noUsage };
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

function choiceOf(index: number, { text, tokens, finish }: Text, scored: boolean) {
  return {
    index,
    message: { role: 'assistant', content: text, refusal: null },
    logprobs: scored ? logprobsOf(tokens) : null,
    finish_reason: finish,
  };
}

function chunkChoiceOf({ index, text, tokens, finish }: Delta, role: object, scored: boolean) {
  return {
    index,
    delta: { ...role, content: text },
    logprobs: scored ? logprobsOf(tokens) : null,
    finish_reason: finish,
  };
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

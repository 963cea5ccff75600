import { randomUUID } from 'node:crypto';
import type { Generation, ScoredToken } from '../../services/openai-generation.ts';
import { completionPrompts } from '../../services/openai-prompts.ts';
import { OpenAiRefusal } from '../../services/openai-refusal.ts';
import { CompletionRequest } from '../../wire/openai-requests.ts';
import { Completion, CompletionChunk, openAiAnswers } from '../../wire/openai-responses.ts';
import type { Routes } from '../route.ts';
import { collect, nowSeconds, samplingParams, type Text, usageOf, wantsUsage } from './generation.ts';
import { sendEvents, untilGone } from './sse.ts';

const DEFAULT_MAX_TOKENS = 16;

/** Texts that go on from given ones. */
export const completionRoutes: Routes = async (app, { services: { openAi } }) => {
  app.post(
    '/completions',
    {
      schema: {
        tags: ['openai'],
        body: CompletionRequest,
        response: openAiAnswers(Completion, CompletionChunk),
      },
    },
    async (request, reply) => {
      const { body, owner } = request;
      refuseContradictions(body);
      const includeUsage = wantsUsage(body);
      const model = await openAi.models.find(body.model, owner);
      const tokenizer = await openAi.models.tokenizer(model);
      const generation: Generation = {
        model,
        tokenizer,
        prompts: completionPrompts(body.prompt, tokenizer),
        n: body.n ?? 1,
        params: samplingParams(body, body.max_tokens ?? DEFAULT_MAX_TOKENS),
        logprobs: body.logprobs ?? undefined,
        echo: body.echo ?? false,
      };
      const head = {
        id: `cmpl-${randomUUID()}`,
        object: 'text_completion',
        created: nowSeconds(),
        model: body.model,
      };
      const scored = generation.logprobs !== undefined;
      const signal = untilGone(reply);
      if (body.stream) return await sendEvents(request, reply, chunks());
      const { deltas, usage } = openAi.generator.start(generation, signal);
      const texts = await collect(deltas, generation.prompts.length * generation.n);
      const choices = texts.map((text, index) => choiceOf(index, text, scored));
      return { ...head, choices, usage: usageOf(usage) };

      async function* chunks(): AsyncGenerator<object> {
        const { deltas, usage } = openAi.generator.start(generation, signal);
        const noUsage = includeUsage ? { usage: null } : {};
        for await (const { index, ...text } of deltas) {
          yield { ...head, choices: [choiceOf(index, text, scored)], ...noUsage };
        }
        if (includeUsage) yield { ...head, choices: [], usage: usageOf(usage) };
      }
    },
  );
};

function refuseContradictions(body: CompletionRequest): void {
  if (body.best_of != null && body.best_of !== (body.n ?? 1)) {
    const message = `best_of: ${body.best_of} must be n (${body.n ?? 1}): all texts are returned`;
    throw new OpenAiRefusal('invalid_request', message, { param: 'best_of' });
  }
  if (body.max_tokens === 0 && !body.echo) {
    throw new OpenAiRefusal('invalid_request', 'max_tokens: 0 needs echo', { param: 'max_tokens' });
  }
}

function choiceOf(index: number, { text, tokens, finish }: Text, scored: boolean) {
  return { index, text, logprobs: scored ? logprobsOf(tokens) : null, finish_reason: finish };
}

function logprobsOf(tokens: ScoredToken[]) {
  return {
    tokens: tokens.map(({ text }) => text),
    token_logprobs: tokens.map(({ logprob }) => logprob),
    top_logprobs: tokens.map((token) => (token.logprob === null ? null : candidatesOf(token))),
    text_offset: tokens.map(({ offset }) => offset),
  };
}

/** By text, the token itself included; of tokens with the same text, the likeliest. */
function candidatesOf({ text, logprob, top }: ScoredToken): Record<string, number> {
  const all = [...top, ...(logprob === null ? [] : [{ text, logprob }])];
  const ascending = all.toSorted((a, b) => a.logprob - b.logprob);
  return Object.fromEntries(ascending.map((candidate) => [candidate.text, candidate.logprob]));
}

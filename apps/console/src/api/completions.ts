import { EventSourceParserStream } from 'eventsource-parser/stream';
import * as z from 'zod';
import { RequestError, send } from './request.ts';

export interface ScoredToken {
  text: string;
  logprob: number;
}

export interface Sampling {
  temperature: number;
  topP: number;
  maxTokens: number;
  stop: string[];
  seed: number | null;
}

export interface ChatMessage {
  role: 'system' | 'user' | 'assistant';
  content: string;
}

/** More of an answer. */
export interface Piece {
  text: string;
  tokens: ScoredToken[];
  finish: string | null;
}

const ChatChunk = z.object({
  choices: z.array(
    z.object({
      delta: z.object({ content: z.string().nullish() }),
      logprobs: z
        .object({ content: z.array(z.object({ token: z.string(), logprob: z.number() })) })
        .nullish(),
      finish_reason: z.string().nullish(),
    }),
  ),
});

const TextChunk = z.object({
  choices: z.array(
    z.object({
      text: z.string(),
      logprobs: z
        .object({ tokens: z.array(z.string()), token_logprobs: z.array(z.number().nullable()) })
        .nullish(),
      finish_reason: z.string().nullish(),
    }),
  ),
});

const Failure = z.object({ error: z.object({ message: z.string() }) });

/** An answer to a conversation, piece by piece. */
export async function* streamChat(
  model: string,
  messages: ChatMessage[],
  sampling: Sampling,
  signal: AbortSignal,
): AsyncGenerator<Piece> {
  const body = { model, messages, logprobs: true, ...bodyOf(sampling) };
  for await (const chunk of events('/v1/chat/completions', body, ChatChunk, signal)) {
    for (const { delta, logprobs, finish_reason: finish } of chunk.choices) {
      const tokens = (logprobs?.content ?? []).map(({ token, logprob }) => ({ text: token, logprob }));
      yield { text: delta.content ?? '', tokens, finish: finish ?? null };
    }
  }
}

/** What follows a text, piece by piece. */
export async function* streamText(
  model: string,
  prompt: string,
  sampling: Sampling,
  signal: AbortSignal,
): AsyncGenerator<Piece> {
  const body = { model, prompt, logprobs: 0, ...bodyOf(sampling) };
  for await (const chunk of events('/v1/completions', body, TextChunk, signal)) {
    for (const { text, logprobs, finish_reason: finish } of chunk.choices) {
      const tokens = (logprobs?.tokens ?? []).map((token, at) => ({
        text: token,
        logprob: logprobs?.token_logprobs[at] ?? 0,
      }));
      yield { text, tokens, finish: finish ?? null };
    }
  }
}

function bodyOf({ temperature, topP, maxTokens, stop, seed }: Sampling) {
  return {
    stream: true,
    temperature,
    top_p: topP,
    max_tokens: maxTokens,
    ...(stop.length > 0 ? { stop } : {}),
    ...(seed === null ? {} : { seed }),
  };
}

async function* events<T>(
  path: string,
  body: object,
  schema: z.ZodType<T>,
  signal: AbortSignal,
): AsyncGenerator<T> {
  const answer = await send(path, { method: 'POST', body, signal });
  const stream = answer.body!.pipeThrough(new TextDecoderStream()).pipeThrough(new EventSourceParserStream());
  for (const reader = stream.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done || value.data === '[DONE]') return;
    const json: unknown = JSON.parse(value.data);
    const failure = Failure.safeParse(json);
    if (failure.success) throw new RequestError(500, failure.data.error.message);
    yield schema.parse(json);
  }
}

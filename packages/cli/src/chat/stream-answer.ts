/** Asks a server for the next message of a conversation, and gives the answer as it comes. */
import { EventSourceParserStream } from 'eventsource-parser/stream';
import { z } from 'zod';
import { CliError } from '../errors.ts';
import { type Connection, callServer } from '../remote.ts';

export interface Message {
  role: 'system' | 'user' | 'assistant';
  content: string;
}

/** A chat completion's fields, under their wire names; what is undefined is left to the server. */
export interface ChatRequest {
  model: string;
  temperature?: number | undefined;
  top_p?: number | undefined;
  max_tokens?: number | undefined;
}

const Usage = z.object({
  prompt_tokens: z.number(),
  completion_tokens: z.number(),
  total_tokens: z.number(),
});

export interface Answer {
  content: string;
  finishReason: string | null;
  usage: z.infer<typeof Usage> | null;
}

const Chunk = z.object({
  choices: z.array(
    z.object({ delta: z.object({ content: z.string().nullish() }), finish_reason: z.string().nullish() }),
  ),
  usage: Usage.nullish(),
});
const Failure = z.object({ error: z.object({ message: z.string() }) });

/**
 * The whole answer; `onText` is told each piece of it before.
 *
 * @throws CliError when the server refuses, or fails midway; the signal's reason when it is aborted
 */
export async function streamAnswer(
  connection: Connection,
  request: ChatRequest & { messages: readonly Message[] },
  onText: (text: string) => void,
  signal?: AbortSignal,
): Promise<Answer> {
  const body = { ...request, stream: true, stream_options: { include_usage: true } };
  const response = await callServer(connection, '/v1/chat/completions', { body, ...(signal && { signal }) });
  const answer: Answer = { content: '', finishReason: null, usage: null };
  const events = response
    .body!.pipeThrough(new TextDecoderStream())
    .pipeThrough(new EventSourceParserStream());
  for await (const { data } of events) {
    if (data === '[DONE]') return answer;
    const chunk = readChunk(data);
    for (const { delta, finish_reason } of chunk.choices) {
      if (delta.content) onText(delta.content);
      answer.content += delta.content ?? '';
      answer.finishReason = finish_reason ?? answer.finishReason;
    }
    answer.usage = chunk.usage ?? answer.usage;
  }
  throw new CliError('the answer ended early: the server closed the connection');
}

function readChunk(data: string): z.infer<typeof Chunk> {
  const json: unknown = JSON.parse(data);
  const failure = Failure.safeParse(json);
  if (failure.success) throw new CliError(failure.data.error.message);
  return Chunk.parse(json);
}

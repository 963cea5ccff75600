import { Readable } from 'node:stream';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { toErrorBody } from './error.ts';

/** Aborted when the client is gone before it has its answer. */
export function untilGone(reply: FastifyReply): AbortSignal {
  const abort = new AbortController();
  reply.raw.once('close', () => {
    if (!reply.raw.writableFinished) abort.abort();
  });
  return abort.signal;
}

/**
 * Answers with server-sent events, each a JSON object, and `[DONE]` at the end. What fails before the first event fails the
 * request; what fails later is an event with `error`, after which the stream ends.
 */
export async function sendEvents(
  request: FastifyRequest,
  reply: FastifyReply,
  events: AsyncGenerator<object>,
): Promise<FastifyReply> {
  const first = await events.next();
  async function* lines(): AsyncGenerator<string> {
    try {
      if (!first.done) yield line(first.value);
      for await (const event of events) yield line(event);
      yield 'data: [DONE]\n\n';
    } catch (error) {
      yield line(toErrorBody(error, request).body);
    }
  }
  return reply
    .type('text/event-stream; charset=utf-8')
    .header('cache-control', 'no-cache')
    .header('x-accel-buffering', 'no')
    .serializer((payload: unknown) => payload as string)
    .send(Readable.from(lines()));
}

function line(event: object): string {
  return `data: ${JSON.stringify(event)}\n\n`;
}

import * as z from 'zod';
import { keyHeaders } from './key.ts';

/** A call that the server refused, or that did not reach it (status 0). */
export class RequestError extends Error {
  override readonly name = 'RequestError';
  readonly status: number;

  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }
}

const Refusal = z.object({ detail: z.string() });
const OpenAiRefusal = z.object({ error: z.object({ message: z.string() }) });

interface RequestOptions {
  method?: string;
  body?: unknown;
  signal?: AbortSignal | undefined;
}

/** Sends a call. @throws RequestError with a message to show. */
export async function send(path: string, options: RequestOptions = {}): Promise<Response> {
  const { method = 'GET', body, signal } = options;
  let answer: Response;
  try {
    answer = await fetch(path, {
      method,
      headers: { ...keyHeaders(), ...(body === undefined ? {} : { 'content-type': 'application/json' }) },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      ...(signal ? { signal } : {}),
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new RequestError(
      0,
      'The server cannot be reached. Is it running? This page tries again by itself.',
    );
  }
  if (answer.ok) return answer;
  throw new RequestError(answer.status, messageOf(await answer.text(), answer.status));
}

/** Sends a call and checks its answer. */
export async function get<T>(path: string, schema: z.ZodType<T>, signal?: AbortSignal): Promise<T> {
  const answer = await send(path, { signal });
  return schema.parse(await answer.json());
}

function messageOf(text: string, status: number): string {
  try {
    const json: unknown = JSON.parse(text);
    const refusal = Refusal.safeParse(json);
    if (refusal.success) return refusal.data.detail;
    const openAi = OpenAiRefusal.safeParse(json);
    if (openAi.success) return openAi.data.error.message;
  } catch {
    // Not JSON: something between the browser and the server answered.
  }
  return `The answer was ${status}${text ? `: ${text.slice(0, 200)}` : ''}`;
}

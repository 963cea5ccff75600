/** Options of the commands that ask a running server, and the client made from them. */
import { APIConnectionError, APIStatusError, RestClient } from '@anneal/client';
import type { Command } from 'commander';
import { z } from 'zod';
import { CliError } from './errors.ts';

export interface RemoteOptions {
  baseUrl?: string;
  apiKey?: string;
  json?: boolean;
}

/** Short, since a person waits: a server that is down is told at once. */
const RETRY = { maxElapsedMs: 5000, initialDelayMs: 300 };

export function addRemoteOptions(command: Command): Command {
  return command
    .option('--base-url <url>', 'the server (env TINKER_BASE_URL; default: http://127.0.0.1:8123)')
    .option('--api-key <key>', 'its key (env TINKER_API_KEY, ANNEAL_API_KEY)')
    .option('--json', 'print JSON');
}

/** Where the server is, and the key it takes. */
export interface Connection {
  baseUrl: string;
  apiKey: string;
}

/** Runs `work` with a client, and turns the client's errors into one line for a person. */
export function withServer<T>(options: RemoteOptions, work: (rest: RestClient) => Promise<T>): Promise<T> {
  return withConnection(options, (connection) => work(new RestClient({ ...connection, retry: RETRY })));
}

/** {@link withServer} for work that makes its own client. */
export async function withConnection<T>(
  options: RemoteOptions,
  work: (connection: Connection) => Promise<T>,
): Promise<T> {
  const { TINKER_BASE_URL, TINKER_API_KEY, ANNEAL_API_KEY, ANNEAL_PORT } = process.env;
  const baseUrl = options.baseUrl || TINKER_BASE_URL || `http://127.0.0.1:${ANNEAL_PORT || 8123}`;
  const apiKey = options.apiKey || TINKER_API_KEY || ANNEAL_API_KEY;
  if (!apiKey)
    throw new CliError('--api-key: a key is needed; give it, or set TINKER_API_KEY', { exitCode: 2 });
  try {
    return await work({ baseUrl: baseUrl.replace(/\/+$/, ''), apiKey });
  } catch (error) {
    throw explain(error, baseUrl);
  }
}

function explain(error: unknown, baseUrl: string): unknown {
  if (error instanceof APIConnectionError) {
    return noAnswer(baseUrl, error);
  }
  if (error instanceof APIStatusError) return new CliError(detailOf(error), { cause: error });
  if (error instanceof z.ZodError) {
    return new CliError(error.issues.map(({ message }) => message).join('\n'), { cause: error, exitCode: 2 });
  }
  // A malformed checkpoint path is refused by the client before anything is sent.
  if (error instanceof TypeError) return new CliError(error.message, { cause: error, exitCode: 2 });
  return error;
}

function detailOf({ body, message, status }: APIStatusError): string {
  const detail = typeof body === 'object' && body !== null && 'detail' in body ? body.detail : undefined;
  return typeof detail === 'string' ? detail : `${message} (status ${status})`;
}

function noAnswer(baseUrl: string, cause: unknown): CliError {
  return new CliError(`no answer from ${baseUrl}: is the server running there? (--base-url)`, { cause });
}

/** What a refusal says: OpenAI's calls under `error.message`, the console's and the Tinker API's under `message` or `detail`. */
const Refusal = z.union([
  z.object({ error: z.object({ message: z.string() }) }).transform(({ error }) => error.message),
  z.object({ detail: z.string() }).transform(({ detail }) => detail),
  z.object({ message: z.string() }).transform(({ message }) => message),
  z.object({ error: z.string() }).transform(({ error }) => error),
]);

/**
 * One call that the client package has no method for.
 *
 * @throws CliError with the server's words when it refuses, or when there is no answer
 */
export async function callServer(
  { baseUrl, apiKey }: Connection,
  path: string,
  { body, signal }: { body?: object; signal?: AbortSignal } = {},
): Promise<Response> {
  const headers = { authorization: `Bearer ${apiKey}`, 'content-type': 'application/json' };
  const request = body ? { method: 'POST', body: JSON.stringify(body), headers } : { headers };
  const response = await fetch(`${baseUrl}${path}`, { ...request, signal }).catch((cause) => {
    signal?.throwIfAborted();
    throw noAnswer(baseUrl, cause);
  });
  if (response.ok) return response;
  const refusal = Refusal.safeParse(await response.json().catch(() => undefined));
  throw new CliError(refusal.success ? refusal.data : `${path} failed with status ${response.status}`);
}

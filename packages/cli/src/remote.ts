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

/** Runs `work` with a client, and turns the client's errors into one line for a person. */
export async function withServer<T>(
  options: RemoteOptions,
  work: (rest: RestClient) => Promise<T>,
): Promise<T> {
  const { TINKER_BASE_URL, TINKER_API_KEY, ANNEAL_API_KEY, ANNEAL_PORT } = process.env;
  const baseUrl = options.baseUrl || TINKER_BASE_URL || `http://127.0.0.1:${ANNEAL_PORT || 8123}`;
  const apiKey = options.apiKey || TINKER_API_KEY || ANNEAL_API_KEY;
  if (!apiKey)
    throw new CliError('--api-key: a key is needed; give it, or set TINKER_API_KEY', { exitCode: 2 });
  try {
    return await work(new RestClient({ baseUrl, apiKey, retry: RETRY }));
  } catch (error) {
    throw explain(error, baseUrl);
  }
}

function explain(error: unknown, baseUrl: string): unknown {
  if (error instanceof APIConnectionError) {
    return new CliError(`no answer from ${baseUrl}: is the server running there? (--base-url)`, {
      cause: error,
    });
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

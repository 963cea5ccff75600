/** What a client can be told, and where it looks when it is not told. */
import type { QueueState } from '@anneal/types';
import { TinkerError } from './errors.ts';
import { DEFAULT_RETRY, type RetryConfig } from './retry.ts';

/** Where log lines go. `console` fits. */
export interface Logger {
  debug(message: string): void;
  info(message: string): void;
  warn(message: string): void;
  error(message: string): void;
}

/** News that a request waits for the server's capacity, or no longer does. */
export interface QueueStateEvent {
  queueState: QueueState;
  /** The server's words. */
  reason: string | undefined;
  /** For example `ForwardBackward` or `Sample`. */
  requestType: string;
  requestId: string;
}

/** Settings shared by all clients. */
export interface ClientOptions {
  /** The key, or a function that fetches one per request. Default: `TINKER_API_KEY`. */
  apiKey?: string | (() => string | Promise<string>);
  /** Default: `TINKER_BASE_URL`, else the hosted service. A path prefix is kept. */
  baseUrl?: string;
  /** Default: the global `fetch`. */
  fetch?: typeof globalThis.fetch;
  /** Default: warnings and errors to the console. */
  logger?: Logger;
  /** Sent with every call. */
  headers?: Record<string, string>;
  /** Milliseconds for one attempt of a call that does not wait for a result. Default: 60 000. */
  timeout?: number;
  /** How calls are repeated; what is not named keeps its default. */
  retry?: Partial<RetryConfig>;
  /** Result polls under way at once; others wait their turn. Default: 1000, and 4 in browsers, which open 6 connections per host. */
  maxConcurrentPolls?: number;
  /** Told when requests wait for capacity. Default: a log line, at most one a minute. */
  onQueueState?: (event: QueueStateEvent) => void;
  /** Send usage events to the server. Default: false. */
  telemetry?: boolean;
  /** Compresses training requests with zstd where the server asks for it. Without it they go uncompressed. */
  zstdCompress?: (
    bytes: Uint8Array<ArrayBuffer>,
  ) => Uint8Array<ArrayBuffer> | Promise<Uint8Array<ArrayBuffer>>;
  /** Base of `getConsoleUrl()`. Default: the hosted service's console. */
  consoleUrl?: string;
}

/** Options with every default filled in. */
export interface ResolvedOptions {
  apiKey: () => string | Promise<string>;
  baseUrl: string;
  fetch: typeof globalThis.fetch;
  logger: Logger;
  headers: Record<string, string>;
  timeout: number;
  retry: RetryConfig;
  maxConcurrentPolls: number;
  onQueueState: ((event: QueueStateEvent) => void) | undefined;
  telemetry: boolean;
  zstdCompress: ClientOptions['zstdCompress'];
  consoleUrl: string;
}

const HOSTED_BASE_URL = 'https://tinker.thinkingmachines.dev/services/tinker-prod';
const HOSTED_CONSOLE_URL = 'https://tinker.thinkingmachines.ai';

/** An environment variable, where there is an environment; empty counts as unset. */
export function readEnvironment(name: string): string | undefined {
  const { process } = globalThis as { process?: { env?: Record<string, string | undefined> } };
  return process?.env?.[name] || undefined;
}

const CONSOLE_LOGGER: Logger = {
  debug: () => undefined,
  info: () => undefined,
  warn: (message) => console.warn(message),
  error: (message) => console.error(message),
};

function resolveApiKey(given: ClientOptions['apiKey']): () => string | Promise<string> {
  if (typeof given === 'function') return given;
  const key = given?.trim() || readEnvironment('TINKER_API_KEY')?.trim();
  if (!key) throw new TinkerError('no API key: pass apiKey or set TINKER_API_KEY');
  return () => key;
}

function resolveBaseUrl(given: string | undefined): string {
  const url = (given || readEnvironment('TINKER_BASE_URL') || HOSTED_BASE_URL).replace(/\/+$/, '');
  if (/^https?:\/\//.test(url) && URL.canParse(url)) return url;
  throw new TinkerError(`baseUrl "${url}" is no http or https URL`);
}

function positive(name: string, value: number): number {
  if (value > 0) return value;
  throw new TinkerError(`${name} must be positive, got ${value}`);
}

const inBrowser = () => 'document' in globalThis || 'WorkerGlobalScope' in globalThis;

/**
 * Fills in what is not given from the environment and the defaults.
 *
 * @throws TinkerError without an API key, or with a base URL that is none.
 */
export function resolveOptions(options: ClientOptions): ResolvedOptions {
  const polls = options.maxConcurrentPolls ?? (inBrowser() && !('Deno' in globalThis) ? 4 : 1000);
  return {
    apiKey: resolveApiKey(options.apiKey),
    baseUrl: resolveBaseUrl(options.baseUrl),
    fetch: options.fetch ?? ((input, init) => globalThis.fetch(input, init)),
    logger: options.logger ?? CONSOLE_LOGGER,
    headers: options.headers ?? {},
    timeout: positive('timeout', options.timeout ?? 60_000),
    retry: { ...DEFAULT_RETRY, ...options.retry },
    maxConcurrentPolls: positive('maxConcurrentPolls', polls),
    onQueueState: options.onQueueState,
    telemetry: options.telemetry ?? false,
    zstdCompress: options.zstdCompress,
    consoleUrl: (options.consoleUrl ?? HOSTED_CONSOLE_URL).replace(/\/+$/, ''),
  };
}

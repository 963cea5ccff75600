/** One HTTP exchange, and its repetition. Knows headers, timeouts, status codes; nothing of what is asked. */
import type * as z from 'zod';
import {
  APIConnectionError,
  APIResponseValidationError,
  APIStatusError,
  APITimeoutError,
} from '../core/errors.ts';
import type { ResolvedOptions } from '../core/options.ts';
import { delayAfter, isRetryable } from '../core/retry.ts';
import { SDK_VERSION } from '../version.ts';
import { Credentials } from './auth.ts';
import { stringifyLossless } from './json.ts';
import { sleep } from './sleep.ts';

/** What to send. */
export interface Call {
  method: 'GET' | 'POST' | 'PUT' | 'DELETE';
  /** Below the base URL, for example `/api/v1/get_info`. */
  path: string;
  query?: Record<string, string | number | undefined>;
  /** JSON text, or protobuf bytes. */
  body?: string | Uint8Array<ArrayBuffer>;
  headers?: Record<string, string>;
  /** Milliseconds for one attempt; the client's default when absent. */
  timeout?: number;
  signal?: AbortSignal;
  /** Instead of the client's credential. */
  apiKey?: string;
  /** Once begun, an attempt is read to its end although `signal` aborts: the server may have acted, and its answer says so. */
  finishesAttempt?: boolean;
  /** Milliseconds after which it is not repeated any more; the client's setting when absent. */
  maxElapsedMs?: number;
  /** A status that the caller deals with: it is not sent again for it. */
  handsBack?: number;
}

/** What came back, read to its end. */
export interface Answer {
  status: number;
  headers: Headers;
  bytes: Uint8Array<ArrayBuffer>;
}

const decoder = new TextDecoder();

/** The body as JSON, or as text where it is none. */
export function bodyOf(answer: Answer): unknown {
  const text = decoder.decode(answer.bytes);
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/**
 * Parses an answer's JSON.
 *
 * @throws APIResponseValidationError when it is not what the schema says.
 */
export function parseAnswer<T extends z.ZodType>(call: Call, answer: Answer, schema: T): z.infer<T> {
  const result = schema.safeParse(bodyOf(answer));
  if (result.success) return result.data;
  const message = `${call.method} ${call.path}: the answer is not what the API promises: ${result.error.message}`;
  throw new APIResponseValidationError(message, { cause: result.error });
}

export class Http {
  readonly #options: ResolvedOptions;
  readonly credentials: Credentials;
  /** Milliseconds for which 402 is waited out; set by the server's configuration. */
  billingPauseMs = 0;

  constructor(options: ResolvedOptions) {
    this.#options = options;
    this.credentials = new Credentials(options.apiKey);
  }

  /** Sends until it succeeds, fails for good, or the time for repetition is over. */
  async send(call: Call): Promise<Answer> {
    const retry = { ...this.#options.retry, ...(call.maxElapsedMs && { maxElapsedMs: call.maxElapsedMs }) };
    const start = Date.now();
    const idempotencyKey = crypto.randomUUID();
    for (let attempt = 0; ; attempt++) {
      try {
        return await this.sendOnce(call, idempotencyKey, attempt);
      } catch (error) {
        call.signal?.throwIfAborted();
        const elapsed = Date.now() - start;
        if (call.handsBack !== undefined && isStatus(error, call.handsBack)) throw error;
        const paused = isStatus(error, 402) && elapsed < this.billingPauseMs;
        if (!paused && !(isRetryable(error) && elapsed < retry.maxElapsedMs)) throw error;
        const delay = paused
          ? 5000
          : Math.min(delayAfter(error, attempt, retry), retry.maxElapsedMs - elapsed);
        this.#options.logger.debug(`${call.method} ${call.path} again in ${Math.round(delay)} ms: ${error}`);
        await sleep(delay, call.signal);
      }
    }
  }

  /** {@link send}, with the JSON answer parsed. */
  async json<T extends z.ZodType>(call: Call, schema: T): Promise<z.infer<T>> {
    return parseAnswer(call, await this.send(call), schema);
  }

  /**
   * Sends once. A token that the server calls invalid is renewed, once.
   *
   * @throws APIStatusError, APIConnectionError, APITimeoutError
   */
  async sendOnce(call: Call, idempotencyKey: string = crypto.randomUUID(), attempt = 0): Promise<Answer> {
    const answer = await this.#exchange(call, idempotencyKey, attempt);
    if (answer.status < 400) return answer;
    if (this.#isStaleToken(answer) && attempt >= 0) {
      this.credentials.invalidate();
      return this.sendOnce(call, idempotencyKey, -1);
    }
    throw this.#errorOf(call, answer);
  }

  #isStaleToken({ status, headers }: Answer): boolean {
    const challenge = headers.get('www-authenticate') ?? '';
    return status === 401 && this.credentials.usesTokens && challenge.includes('error="invalid_token"');
  }

  #errorOf(call: Call, answer: Answer): Error {
    const name = `${call.method} ${call.path}`;
    // The API always explains a 400. An empty one comes from something on the way.
    if (answer.status === 400 && answer.bytes.length === 0) {
      return new APIConnectionError(`${name}: 400 without a body, from a proxy rather than the API`);
    }
    return APIStatusError.from(name, { ...answer, body: bodyOf(answer) });
  }

  async #exchange(call: Call, idempotencyKey: string, attempt: number): Promise<Answer> {
    const timeout = call.timeout ?? this.#options.timeout;
    const controller = new AbortController();
    const abort = () => controller.abort(call.signal?.reason);
    call.signal?.throwIfAborted();
    if (!call.finishesAttempt) call.signal?.addEventListener('abort', abort, { once: true });
    const timer = setTimeout(
      () => controller.abort(new APITimeoutError(`no answer in ${timeout} ms`)),
      timeout,
    );
    try {
      const response = await this.#options.fetch(this.#url(call), {
        method: call.method,
        headers: await this.#headers(call, idempotencyKey, attempt),
        body: call.body,
        signal: controller.signal,
      });
      const bytes = new Uint8Array(await response.arrayBuffer());
      return { status: response.status, headers: response.headers, bytes };
    } catch (error) {
      throw this.#connectionError(call, controller.signal, error);
    } finally {
      clearTimeout(timer);
      call.signal?.removeEventListener('abort', abort);
    }
  }

  #connectionError(call: Call, signal: AbortSignal, error: unknown): unknown {
    const name = `${call.method} ${call.path}`;
    if (signal.reason instanceof APITimeoutError) {
      return new APITimeoutError(`${name}: ${signal.reason.message}`, { cause: error });
    }
    if (signal.aborted) return signal.reason;
    // Only what fetch itself throws means that no answer came.
    if (!(error instanceof TypeError) && !(error instanceof DOMException)) return error;
    const { cause } = error as { cause?: { message?: string } };
    return new APIConnectionError(`${name}: ${error.message}${cause?.message ? ` (${cause.message})` : ''}`, {
      cause: error,
    });
  }

  #url({ path, query }: Call): string {
    const search = new URLSearchParams();
    for (const [key, value] of Object.entries(query ?? {})) {
      if (value !== undefined) search.set(key, String(value));
    }
    return `${this.#options.baseUrl}${path}${search.size > 0 ? `?${search}` : ''}`;
  }

  async #headers(call: Call, idempotencyKey: string, attempt: number): Promise<Record<string, string>> {
    const headers: Record<string, string> = {
      Accept: 'application/json',
      'X-API-Key': call.apiKey ?? (await this.credentials.header()),
      'X-SDK-Version': SDK_VERSION,
      'X-Stainless-Retry-Count': String(Math.max(0, attempt)),
    };
    if (call.method !== 'GET') headers['X-Idempotency-Key'] = idempotencyKey;
    if (call.body !== undefined) {
      headers['Content-Type'] = typeof call.body === 'string' ? 'application/json' : 'application/x-protobuf';
    }
    return { ...headers, ...this.#options.headers, ...call.headers };
  }
}

/** Whether an error is the answer with this status. */
export function isStatus(error: unknown, status: number): error is APIStatusError {
  return error instanceof APIStatusError && error.status === status;
}

/** A POST with a JSON body. */
export function post(path: string, body: unknown, extra: Omit<Call, 'method' | 'path' | 'body'> = {}): Call {
  return { method: 'POST', path, body: stringifyLossless(body), ...extra };
}

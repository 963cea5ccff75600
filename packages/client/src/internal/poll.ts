/** Waits for the result of a submitted request. */
import {
  CompleteMetadataResponse,
  FutureRetrieveRequest,
  RequestFailedResponse,
  TryAgainResponse,
} from '@anneal/types';
import {
  APIConnectionError,
  APIResponseValidationError,
  APIStatusError,
  RequestFailedError,
  RequestGoneError,
} from '../core/errors.ts';
import { backoffMs, delayAfter } from '../core/retry.ts';
import type { Backend } from './backend.ts';
import { type Answer, bodyOf, isStatus } from './http.ts';
import type { QueueWatch } from './queue-watch.ts';
import type { ResultKind } from './result-kind.ts';
import type { SamplerPoller } from './sampler-poller.ts';
import { sleep } from './sleep.ts';
import { postRequest } from './wire-request.ts';

/** The server holds a poll for up to half a minute. */
const POLL_TIMEOUT_MS = 45_000;
/** Repetitions of a poll that was called wrong: proxies are known to say so by mistake. */
const MAX_BAD_REQUESTS = 3;
/** Pause after a poll that the server could not answer. */
const FAULT_BACKOFF = {
  maxElapsedMs: Number.POSITIVE_INFINITY,
  initialDelayMs: 100,
  maxDelayMs: 10_000,
  jitter: 0.25,
};

export interface PollRequest<T> {
  requestId: string;
  kind: ResultKind<T>;
  signal: AbortSignal;
  queue: QueueWatch;
  /** Milliseconds that the submission took. */
  roundtripMs: number;
  /** Says when the result is there, where one poll serves a whole sampler. */
  poller?: SamplerPoller;
}

type Outcome<T> = { done: T } | { bytes: number } | undefined;

class ResultPoll<T> {
  readonly #backend: Backend;
  readonly #request: PollRequest<T>;
  #iteration = 0;
  #faults = 0;
  #badRequests = 0;
  #allowMetadataOnly = true;
  #releaseBytes = () => {};

  constructor(backend: Backend, request: PollRequest<T>) {
    this.#backend = backend;
    this.#request = request;
  }

  async run(): Promise<T> {
    const { requestId, signal, poller, queue } = this.#request;
    try {
      const announced = await poller?.waitFor(requestId, signal);
      if (announced) await this.#reserve(announced);
      for (;;) {
        const outcome = await this.#ask();
        if (outcome && 'done' in outcome) return outcome.done;
        if (outcome) await this.#reserve(outcome.bytes);
      }
    } finally {
      this.#releaseBytes();
      if (!signal.aborted) poller?.markRetrieved(requestId);
      queue.finished(requestId);
    }
  }

  /** Announced results wait for room in memory, then are fetched whole. */
  async #reserve(bytes: number): Promise<void> {
    this.#allowMetadataOnly = false;
    this.#releaseBytes = await this.#backend.limits.resultBytes.acquire(bytes, this.#request.signal);
  }

  async #ask(): Promise<Outcome<T>> {
    const { signal } = this.#request;
    const { http, limits } = this.#backend;
    try {
      const answer = await limits.polls.use(1, signal, () => http.sendOnce(this.#call()));
      this.#faults = 0;
      return this.#read(answer);
    } catch (error) {
      signal.throwIfAborted();
      await sleep(this.#pauseAfter(error), signal);
      return undefined;
    } finally {
      this.#iteration++;
    }
  }

  #call() {
    const { requestId, kind, signal, roundtripMs } = this.#request;
    const headers: Record<string, string> = {
      'X-Tinker-Request-Iteration': String(this.#iteration),
      'X-Tinker-Request-Type': kind.name,
    };
    if (kind.decode) headers.Accept = 'application/x-protobuf';
    if (this.#iteration === 0) headers['X-Tinker-Create-Promise-Roundtrip-Time'] = String(roundtripMs / 1000);
    return postRequest(
      '/api/v1/retrieve_future',
      FutureRetrieveRequest,
      { request_id: requestId, allow_metadata_only: this.#allowMetadataOnly },
      { headers, signal, timeout: POLL_TIMEOUT_MS },
    );
  }

  #read(answer: Answer): Outcome<T> {
    const { requestId, kind, queue } = this.#request;
    if (answer.headers.get('content-type')?.includes('application/x-protobuf')) {
      return { done: this.#decode(answer.bytes) };
    }
    const body = bodyOf(answer);
    const fields = typeof body === 'object' && body !== null ? { ...body } : {};
    if ('type' in fields && fields.type === 'try_again') {
      queue.report(requestId, kind.name, TryAgainResponse.parse({ request_id: requestId, ...fields }));
      return undefined;
    }
    const metadata = CompleteMetadataResponse.safeParse(body);
    if (metadata.success && this.#allowMetadataOnly) return { bytes: metadata.data.response_payload_size };
    if ('error' in fields) throw this.#failed(fields.error, fields);
    const result = kind.schema.safeParse(body);
    if (result.success) return { done: result.data };
    throw this.#unreadable(result.error);
  }

  #failed(error: unknown, fields: object): RequestFailedError {
    const { requestId } = this.#request;
    const text = typeof error === 'string' ? error : JSON.stringify(error);
    const { category } = RequestFailedResponse.parse({ ...fields, error: text });
    return new RequestFailedError(`request ${requestId} failed: ${text}`, requestId, category);
  }

  #decode(bytes: Uint8Array): T {
    if (!this.#request.kind.decode) throw this.#unreadable(new Error('unexpected protobuf'));
    try {
      return this.#request.kind.decode(bytes);
    } catch (error) {
      throw this.#unreadable(error);
    }
  }

  #unreadable(cause: unknown): Error {
    const { requestId, kind } = this.#request;
    const message = `the result of request ${requestId} is no ${kind.name} result: ${(cause as Error).message}`;
    return new APIResponseValidationError(message, { cause });
  }

  /** How long to wait before asking again; throws what asking again cannot help. */
  #pauseAfter(error: unknown): number {
    if (isStatus(error, 408)) {
      const again = TryAgainResponse.safeParse(error.body);
      if (again.success)
        this.#request.queue.report(this.#request.requestId, this.#request.kind.name, again.data);
      this.#badRequests = 0;
      return 0;
    }
    if (isStatus(error, 410)) {
      const { requestId } = this.#request;
      throw new RequestGoneError(`the server no longer knows request ${requestId}`, { cause: error });
    }
    if (isStatus(error, 402) && this.#backend.http.billingPauseMs > 0) return 5000;
    if (isStatus(error, 400) && this.#badRequests < MAX_BAD_REQUESTS) {
      this.#badRequests++;
      return backoffMs(this.#badRequests, FAULT_BACKOFF);
    }
    const fault = error instanceof APIConnectionError || isStatus(error, 429);
    if (!fault && !(error instanceof APIStatusError && error.status >= 500)) throw error;
    return delayAfter(error, this.#faults++, FAULT_BACKOFF);
  }
}

/**
 * The result of a submitted request, however often the server must be asked.
 *
 * @throws RequestFailedError when the request failed; RequestGoneError when the server no longer knows it.
 */
export function pollResult<T>(backend: Backend, request: PollRequest<T>): Promise<T> {
  return new ResultPoll(backend, request).run();
}

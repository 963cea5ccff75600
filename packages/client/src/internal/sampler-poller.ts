/** One long poll for all requests of a sampler, where the server offers it. */
import { FuturesRetrieveRequest, FuturesRetrieveResponse } from '@anneal/types';
import { TinkerError } from '../core/errors.ts';
import { isRetryable } from '../core/retry.ts';
import type { Backend } from './backend.ts';
import { isStatus, parseAnswer } from './http.ts';
import { sleep } from './sleep.ts';
import { postRequest } from './wire-request.ts';

const POLL_TIMEOUT_MS = 45_000;
const PAUSE_MS = 1000;
const ACKNOWLEDGE_AFTER_MS = 100;
const MAX_BAD_REQUESTS = 3;

/** Says of each request when its result is there, and how large it is. */
export class SamplerPoller {
  readonly #backend: Backend;
  readonly #target: { sampling_session_id: string; cloned_sampler_id: bigint };
  readonly #waiting = new Map<string, { done: (bytes: number) => void; fail: (error: unknown) => void }>();
  /** Completions that came before anyone waited for them. */
  readonly #early = new Map<string, number>();
  readonly #retrieved = new Set<string>();
  #cursor = 0;
  #badRequests = 0;
  #running = false;
  #failure: TinkerError | undefined;

  constructor(backend: Backend, samplerId: string, clone: bigint) {
    this.#backend = backend;
    this.#target = { sampling_session_id: samplerId, cloned_sampler_id: clone };
  }

  /**
   * Waits until a result is there; gives its size, 0 where unknown.
   *
   * @throws TinkerError when the server refuses to be polled like this.
   */
  waitFor(requestId: string, signal: AbortSignal): Promise<number> {
    const early = this.#early.get(requestId);
    this.#early.delete(requestId);
    if (early !== undefined) return Promise.resolve(early);
    if (this.#failure) return Promise.reject(this.#failure);
    return new Promise((resolve, reject) => {
      const leave = () => {
        this.#waiting.delete(requestId);
        signal.removeEventListener('abort', abort);
      };
      const abort = () => {
        leave();
        reject(signal.reason);
      };
      const settle =
        <V>(finish: (value: V) => void) =>
        (value: V) => {
          leave();
          finish(value);
        };
      this.#waiting.set(requestId, { done: settle(resolve), fail: settle(reject) });
      signal.addEventListener('abort', abort, { once: true });
      void this.#run();
    });
  }

  /** Lets the server delete a result. */
  markRetrieved(requestId: string): void {
    this.#retrieved.add(requestId);
    void this.#run();
  }

  async #run(): Promise<void> {
    if (this.#running) return;
    this.#running = true;
    while (!this.#failure && (this.#waiting.size > 0 || this.#retrieved.size > 0)) {
      if (this.#waiting.size > 0) await this.#pollOnce();
      else await this.#acknowledge();
    }
    this.#running = false;
  }

  async #pollOnce(): Promise<void> {
    const retrieved = [...this.#retrieved];
    try {
      const call = this.#call(retrieved, undefined);
      const answer = await this.#backend.http.sendOnce(call);
      this.#badRequests = 0;
      this.#take(parseAnswer(call, answer, FuturesRetrieveResponse));
      for (const id of retrieved) this.#retrieved.delete(id);
    } catch (error) {
      if (!this.#isTransient(error)) this.#fail(error);
      else await sleep(PAUSE_MS);
    }
  }

  #isTransient(error: unknown): boolean {
    if (isRetryable(error) || isStatus(error, 402)) return true;
    return isStatus(error, 400) && this.#badRequests++ < MAX_BAD_REQUESTS;
  }

  #call(retrieved: string[], timeout: number | undefined) {
    return postRequest(
      '/api/v1/retrieve_futures',
      FuturesRetrieveRequest,
      { target: this.#target, prev_cursor: this.#cursor, timeout, retrieved_request_ids: retrieved },
      { timeout: POLL_TIMEOUT_MS },
    );
  }

  #take({ completions, cursor }: FuturesRetrieveResponse): void {
    this.#cursor = cursor;
    for (const completion of completions) {
      const size = completion.state === 'finished' ? completion.response_payload_uncompressed_size : 0;
      const waiter = this.#waiting.get(completion.request_id);
      if (waiter) waiter.done(size ?? 0);
      else this.#early.set(completion.request_id, size ?? 0);
    }
  }

  #fail(cause: unknown): void {
    const { sampling_session_id: sampler } = this.#target;
    const message = `polling for the results of sampler ${sampler} failed: ${(cause as Error).message}`;
    this.#failure = new TinkerError(message, { cause });
    for (const waiter of [...this.#waiting.values()]) waiter.fail(this.#failure);
  }

  /** Reports what was read when nobody waits any more, many at once. If it fails, the server deletes them later anyway. */
  async #acknowledge(): Promise<void> {
    await sleep(ACKNOWLEDGE_AFTER_MS);
    if (this.#waiting.size > 0) return;
    const retrieved = [...this.#retrieved];
    this.#retrieved.clear();
    await this.#backend.http.sendOnce(this.#call(retrieved, 0)).catch(() => undefined);
  }
}

/** Repeats whole samples: submission, wait and result. */
import type { ClientConfigResponse } from '@anneal/types';
import type { FutureContext } from '../core/api-future.ts';
import { APIConnectionError, RequestGoneError } from '../core/errors.ts';
import { delayAfter, isRetryable } from '../core/retry.ts';
import { Semaphore } from './semaphore.ts';
import { sleep } from './sleep.ts';

/** How failed samples are repeated. */
export interface SamplingRetryConfig {
  enabled: boolean;
  /** Milliseconds before the first repetition; doubles with each one. */
  initialDelayMs: number;
  maxDelayMs: number;
  /** Share of the delay that is random, 0 to 1. */
  jitter: number;
  /** Milliseconds in which no sample of this client came to an end, after which samples fail. */
  progressTimeoutMs: number;
}

export const DEFAULT_SAMPLING_RETRY: SamplingRetryConfig = {
  enabled: true,
  initialDelayMs: 500,
  maxDelayMs: 10_000,
  jitter: 0.25,
  progressTimeoutMs: 2 * 60 * 60_000,
};

type Attempt<T> = (context: FutureContext) => Promise<T>;

export class SampleRunner {
  readonly #retry: SamplingRetryConfig;
  readonly #detectsStuck: boolean;
  readonly #inFlight: Semaphore;
  #progressAt = 0;
  #running = 0;

  constructor(config: ClientConfigResponse, retry: SamplingRetryConfig) {
    this.#retry = { ...retry, enabled: retry.enabled && !config.sample_no_retries };
    this.#detectsStuck = config.sample_enable_stuck_detection;
    // One poll for all of them needs no bound on their number.
    const limit = config.sample_use_retrieve_futures
      ? Number.POSITIVE_INFINITY
      : config.sample_max_concurrent_requests;
    this.#inFlight = new Semaphore(limit);
  }

  /** Runs a sample until it succeeds, fails for good, or nothing moves any more. */
  run<T>(context: FutureContext, attempt: Attempt<T>): Promise<T> {
    return this.#inFlight.use(1, context.signal, async () => {
      if (this.#running === 0) this.#progressAt = Date.now();
      this.#running++;
      const watch = new AbortController();
      const stopWatching = this.#watchProgress(context.signal, watch);
      try {
        const result = await this.#repeat({ ...context, signal: watch.signal }, attempt);
        this.#progressAt = Date.now();
        return result;
      } finally {
        stopWatching();
        this.#running--;
      }
    });
  }

  /** Aborts `watch` when the sample is cancelled, or when no sample has ended for too long. */
  #watchProgress(outer: AbortSignal, watch: AbortController): () => void {
    const cancel = () => watch.abort(outer.reason);
    outer.addEventListener('abort', cancel, { once: true });
    if (outer.aborted) cancel();
    let timer: ReturnType<typeof setTimeout> | undefined;
    const check = () => {
      const left = this.#progressAt + this.#retry.progressTimeoutMs - Date.now();
      if (left > 0) timer = setTimeout(check, left);
      else watch.abort(new APIConnectionError(`no sample ended for ${this.#retry.progressTimeoutMs} ms`));
    };
    if (this.#detectsStuck) check();
    return () => {
      clearTimeout(timer);
      outer.removeEventListener('abort', cancel);
    };
  }

  async #repeat<T>(context: FutureContext, attempt: Attempt<T>): Promise<T> {
    for (let count = 0; ; count++) {
      try {
        return await attempt(context);
      } catch (error) {
        context.signal.throwIfAborted();
        if (!this.#retry.enabled || !(isRetryable(error) || error instanceof RequestGoneError)) throw error;
        await sleep(delayAfter(error, count, { ...this.#retry, maxElapsedMs: 0 }), context.signal);
      }
    }
  }
}

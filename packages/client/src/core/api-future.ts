import { CancelledError, ResultTimeoutError } from './errors.ts';

/** What a call's work is given. */
export interface FutureContext {
  /** Aborts when the future is cancelled. */
  readonly signal: AbortSignal;
  /** Tells the future a request id that the server promised a result under. */
  promised(requestId: string): void;
}

/** How a future is bound to its surroundings. */
export interface FutureOptions {
  /** Cancels the future. */
  signal?: AbortSignal;
  /** Whether a timed-out `result()` cancels the work; else only that wait ends. */
  cancelOnTimeout?: boolean;
}

/** How long to wait for a result. */
export interface ResultOptions {
  /** Milliseconds. */
  timeout?: number;
  /** Ends this wait, not the work. */
  signal?: AbortSignal;
}

/**
 * The result of a call that is under way. The call's place in the order of submission is fixed when the call is made;
 * the result may be awaited then or later. A failure that nobody awaits is not reported as unhandled.
 *
 * @example
 * const pass = client.forwardBackward(data, 'cross_entropy');
 * const step = client.optimStep({ learning_rate: 1e-4 });
 * await pass;
 * await step.result({ timeout: 60_000 });
 */
export class APIFuture<T> implements Promise<T> {
  readonly [Symbol.toStringTag] = 'APIFuture';
  readonly #settled: Promise<T>;
  readonly #controller = new AbortController();
  readonly #requestIds: string[] = [];
  readonly #cancelOnTimeout: boolean;

  constructor(work: (context: FutureContext) => Promise<T>, options: FutureOptions = {}) {
    this.#cancelOnTimeout = options.cancelOnTimeout ?? false;
    const { signal } = this.#controller;
    this.#settled = this.#start(work, signal, options.signal);
    this.#settled.catch(() => undefined);
  }

  #start(work: (context: FutureContext) => Promise<T>, own: AbortSignal, outer?: AbortSignal): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      own.addEventListener('abort', () => reject(own.reason), { once: true });
      const cancel = () => this.#controller.abort(outer?.reason);
      outer?.addEventListener('abort', cancel, { once: true });
      if (outer?.aborted) cancel();
      const context = { signal: own, promised: (id: string) => void this.#requestIds.push(id) };
      work(context)
        .then(resolve, reject)
        .finally(() => outer?.removeEventListener('abort', cancel));
    });
  }

  /** The server's name for the request, once it has taken it; of a split batch, the first one's. */
  get requestId(): string | undefined {
    return this.#requestIds[0];
  }

  /** All names, for a batch that was split. */
  get requestIds(): readonly string[] {
    return this.#requestIds;
  }

  /**
   * Stops waiting: the future rejects with `reason`. A sample is stopped on the server where it allows that. A training
   * request that has its place in the order is carried out all the same, because later ones build on it.
   */
  cancel(reason: unknown = new CancelledError('the future was cancelled')): void {
    this.#controller.abort(reason);
  }

  /**
   * The result, or the error.
   *
   * @throws ResultTimeoutError when `timeout` milliseconds pass first; the signal's reason when it aborts first.
   */
  result(options: ResultOptions = {}): Promise<T> {
    const { timeout, signal } = options;
    if (timeout === undefined && !signal) return this.#settled;
    return new Promise<T>((resolve, reject) => {
      const onAbort = () => reject(signal?.reason);
      const timer =
        timeout === undefined ? undefined : setTimeout(() => this.#timedOut(timeout, reject), timeout);
      signal?.addEventListener('abort', onAbort, { once: true });
      if (signal?.aborted) onAbort();
      this.#settled.then(resolve, reject).finally(() => {
        clearTimeout(timer);
        signal?.removeEventListener('abort', onAbort);
      });
    });
  }

  #timedOut(timeout: number, reject: (reason: unknown) => void): void {
    const name = this.requestId ? `request ${this.requestId}` : 'the request';
    const error = new ResultTimeoutError(`no result of ${name} within ${timeout} ms`);
    reject(error);
    if (this.#cancelOnTimeout) this.cancel(error);
  }

  // biome-ignore lint/suspicious/noThenProperty: a future is awaited like a promise
  then<A = T, B = never>(
    onFulfilled?: ((value: T) => A | PromiseLike<A>) | null,
    onRejected?: ((reason: unknown) => B | PromiseLike<B>) | null,
  ): Promise<A | B> {
    return this.#settled.then(onFulfilled, onRejected);
  }

  catch<B = never>(onRejected?: ((reason: unknown) => B | PromiseLike<B>) | null): Promise<T | B> {
    return this.#settled.catch(onRejected);
  }

  finally(onFinally?: (() => void) | null): Promise<T> {
    return this.#settled.finally(onFinally);
  }
}

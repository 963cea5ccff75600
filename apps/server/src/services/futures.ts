import type {
  CallDetail,
  ErrorCategory,
  FutureRow,
  NewFuture,
  Outcome,
  RunEffect,
  Store,
} from '@anneal/store';
import type { Context } from '@opentelemetry/api';
import type { FastifyBaseLogger } from 'fastify';
import { ApiError } from '../errors.ts';

/** What a request ended with, or that it has not. */
export type Retrieved =
  | { state: 'pending' }
  | { state: 'failed'; error: string; category: ErrorCategory }
  | { state: 'done'; kind: string; resultType: 'json' | 'protobuf'; size: number };

export interface FutureOptions {
  /** How long a result stays readable after it was read. */
  keepMs: number;
  /** How long a result that nobody reads is kept. */
  maxMs: number;
  /** The trace in which a submission happens. */
  trace?: (() => Context | undefined) | undefined;
}

/** A request that ended, for those who count and trace. Times are milliseconds since 1970. */
export interface Ended extends Pick<NewFuture, 'requestId' | 'kind' | 'modelId' | 'samplerId'> {
  state: Outcome['state'];
  submittedAt: number;
  /** When its work was handed to the engine; absent: it never was. */
  startedAt?: number;
  endedAt: number;
  detail?: CallDetail;
  /** The trace in which it was submitted. */
  trace: Context | undefined;
}

interface Live {
  future: NewFuture;
  submittedAt: number;
  startedAt?: number;
  trace: Context | undefined;
  /** Who waits for the result. */
  waiters: Set<() => void>;
}

/** Rows of ended requests stay this long after the longest life of a result, to tell expired from unknown. */
const FORGET_AFTER_MS = 24 * 3600 * 1000;
const MARK_READ_EVERY_MS = 500;

/**
 * Requests whose results are fetched later. A row is durable before its submission is answered; waiting for a result
 * costs one timer and one callback, nothing polls.
 */
export class FutureService {
  readonly #store: Store;
  readonly #log: FastifyBaseLogger;
  readonly #options: FutureOptions;
  /** Unfinished requests of this process. */
  readonly #live = new Map<string, Live>();
  readonly #endListeners = new Set<(ended: Ended) => void>();
  /** Who waits for any completion of a sampler. */
  readonly #samplerWaiters = new Map<string, Set<() => void>>();
  /** Ended, but the database refused the result. */
  readonly #unstored = new Set<string>();
  #read = new Set<string>();
  #readTimer: NodeJS.Timeout | undefined;

  constructor(store: Store, log: FastifyBaseLogger, options: FutureOptions) {
    this.#store = store;
    this.#log = log;
    this.#options = options;
  }

  get pending(): number {
    return this.#live.size;
  }

  /** Calls back when a request ends, until the returned function is called. */
  onEnded(listener: (ended: Ended) => void): () => void {
    this.#endListeners.add(listener);
    return () => void this.#endListeners.delete(listener);
  }

  /** Notes that a request's work is handed on. */
  started(requestId: string): void {
    const live = this.#live.get(requestId);
    if (live) live.startedAt ??= Date.now();
  }

  /** When a request's work was handed on, of one that has not ended. */
  startedAt(requestId: string): number | undefined {
    return this.#live.get(requestId)?.startedAt;
  }

  /**
   * Records a request. False: it is a copy of one that is known, which must not run again.
   *
   * @throws ApiError `invalid_request` when another request took the same number.
   */
  async submit(future: NewFuture): Promise<boolean> {
    const isFirst = !this.#live.has(future.requestId);
    if (isFirst) {
      const trace = this.#options.trace?.();
      this.#live.set(future.requestId, { future, submittedAt: Date.now(), trace, waiters: new Set() });
    }
    let existing: FutureRow | undefined;
    try {
      existing = await this.#store.futures.submit(future);
    } catch (error) {
      if (isFirst) this.#live.delete(future.requestId);
      throw error;
    }
    if (!existing) return true;
    if (isFirst) this.#wake(future.requestId);
    if (existing.bodyHash !== future.bodyHash || existing.owner !== future.owner) {
      throw new ApiError('invalid_request', reuseMessage(future));
    }
    return false;
  }

  /** Records a request that is refused at once, so that its number counts as used. */
  async refuse(future: NewFuture, error: ApiError): Promise<void> {
    await this.#store.futures.submit(future, {
      state: 'failed',
      error: error.message,
      category: error.category,
    });
    const now = Date.now();
    this.#tellEnd(future, {
      state: 'failed',
      submittedAt: now,
      endedAt: now,
      trace: this.#options.trace?.(),
    });
  }

  /** Ends a request, and records what it did to its run, before anyone hears of it. */
  async complete(requestId: string, outcome: Outcome, effect?: RunEffect): Promise<void> {
    const live = this.#live.get(requestId);
    try {
      await this.#store.futures.finish(requestId, outcome, effect, live?.startedAt);
    } catch (error) {
      this.#log.error({ err: error, requestId }, 'a result could not be stored');
      this.#unstored.add(requestId);
    }
    if (live) {
      const { future, submittedAt, startedAt, trace } = live;
      const detail = outcome.state === 'done' ? outcome.detail : undefined;
      this.#tellEnd(future, {
        state: outcome.state,
        submittedAt,
        ...(startedAt === undefined ? {} : { startedAt }),
        endedAt: Date.now(),
        ...(detail ? { detail } : {}),
        trace,
      });
    }
    this.#wake(requestId);
  }

  /** Tells those who wait for any result of a sampler. */
  notifySampler(samplerId: string): void {
    for (const wake of this.#samplerWaiters.get(samplerId) ?? []) wake();
  }

  /**
   * What a request ended with; waits up to `waitMs` for it.
   *
   * @throws ApiError `not_found` for an id that this owner never submitted, `gone` for one whose result is lost or was
   * deleted: a client submits a sample again then.
   */
  async retrieve(requestId: string, owner: string, waitMs: number, signal?: AbortSignal): Promise<Retrieved> {
    const row = await this.#find(requestId, owner);
    if (row.state !== 'pending') return toRetrieved(row);
    const live = this.#live.get(requestId);
    if (live) await waitFor(live.waiters, waitMs, signal);
    if (this.#unstored.has(requestId)) {
      return {
        state: 'failed',
        error: 'The result could not be stored: is the disk full?',
        category: 'server',
      };
    }
    return toRetrieved(await this.#find(requestId, owner));
  }

  /** The stored body of a finished request. */
  async body(requestId: string): Promise<Uint8Array> {
    const body = await this.#store.futures.result(requestId);
    if (!body) throw goneError(requestId);
    return body;
  }

  /** Notes that a result was sent; some minutes later it may be deleted. */
  markRead(requestId: string): void {
    this.#read.add(requestId);
    this.#readTimer ??= setTimeout(() => void this.#flushRead(), MARK_READ_EVERY_MS).unref();
  }

  /** Results of a sampler that ended after `cursor`, waiting up to `waitMs` for the first one. */
  async completions(
    samplerId: string,
    query: { cursor: number; waitMs: number; accept: (row: FutureRow) => boolean; signal?: AbortSignal },
  ): Promise<{ rows: FutureRow[]; cursor: number }> {
    const deadline = Date.now() + query.waitMs;
    const stop = new AbortController();
    const signal = query.signal ? AbortSignal.any([query.signal, stop.signal]) : stop.signal;
    let { cursor } = query;
    for (;;) {
      const waiters = this.#waitersOf(samplerId);
      const woken = waitFor(waiters, Math.max(deadline - Date.now(), 0), signal);
      const found = await this.#store.futures.completed(samplerId, cursor, 1000);
      cursor = found.at(-1)?.completion ?? cursor;
      const rows = found.filter(query.accept);
      if (rows.length > 0 || Date.now() >= deadline || query.signal?.aborted) {
        stop.abort();
        await woken;
        if (waiters.size === 0) this.#samplerWaiters.delete(samplerId);
        return { rows, cursor };
      }
      await woken;
    }
  }

  /** Deletes results that were read some minutes ago, and forgets what is long over. */
  async sweep(): Promise<void> {
    await this.#flushRead();
    const now = Date.now();
    const { keepMs, maxMs } = this.#options;
    await this.#store.futures.sweep({
      readBefore: now - keepMs,
      finishedBefore: now - maxMs,
      forgetBefore: now - maxMs - FORGET_AFTER_MS,
    });
  }

  /** Wakes everyone who waits, so that their connections end. */
  async close(): Promise<void> {
    const unfinished = [...this.#live.values()].map(({ waiters }) => waiters);
    for (const waiters of [...unfinished, ...this.#samplerWaiters.values()]) {
      for (const wake of waiters) wake();
    }
    await this.#flushRead();
  }

  #waitersOf(samplerId: string): Set<() => void> {
    const waiters = this.#samplerWaiters.get(samplerId) ?? new Set();
    this.#samplerWaiters.set(samplerId, waiters);
    return waiters;
  }

  async #find(requestId: string, owner: string): Promise<FutureRow> {
    const row = await this.#store.futures.get(requestId);
    if (!row || row.owner !== owner) {
      throw new ApiError('not_found', `request_id "${requestId}" is unknown`);
    }
    if (row.state === 'expired') throw goneError(requestId);
    return row;
  }

  #wake(requestId: string): void {
    const live = this.#live.get(requestId);
    this.#live.delete(requestId);
    for (const wake of live?.waiters ?? []) wake();
  }

  #tellEnd({ requestId, kind, modelId, samplerId }: NewFuture, how: Omit<Ended, keyof NewFuture>): void {
    for (const listener of this.#endListeners) listener({ requestId, kind, modelId, samplerId, ...how });
  }

  async #flushRead(): Promise<void> {
    clearTimeout(this.#readTimer);
    this.#readTimer = undefined;
    const ids = [...this.#read];
    this.#read = new Set();
    try {
      await this.#store.futures.markRead(ids);
    } catch (error) {
      this.#log.warn({ err: error }, 'reads of results could not be noted; the results stay longer');
    }
  }
}

function waitFor(waiters: Set<() => void>, waitMs: number, signal?: AbortSignal): Promise<void> {
  if (waitMs <= 0 || signal?.aborted) return Promise.resolve();
  return new Promise((resolve) => {
    const wake = (): void => {
      clearTimeout(timer);
      waiters.delete(wake);
      signal?.removeEventListener('abort', wake);
      resolve();
    };
    const timer = setTimeout(wake, waitMs);
    waiters.add(wake);
    signal?.addEventListener('abort', wake, { once: true });
  });
}

function toRetrieved(row: FutureRow): Retrieved {
  if (row.state === 'failed') {
    return { state: 'failed', error: row.error ?? '', category: row.category ?? 'server' };
  }
  if (row.state === 'done') {
    return {
      state: 'done',
      kind: row.kind,
      resultType: row.resultType ?? 'json',
      size: row.resultSize ?? 0,
    };
  }
  return { state: 'pending' };
}

function goneError(requestId: string): ApiError {
  return new ApiError('gone', `The result of request_id "${requestId}" is no longer here`);
}

function reuseMessage(future: NewFuture): string {
  const of = future.modelId ?? future.samplerId ?? 'this session';
  return future.seq === null
    ? `request_id "${future.requestId}" was already used for another request`
    : `seq_id ${future.seq} of ${of} was already used for another request: count on`;
}

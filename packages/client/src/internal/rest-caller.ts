/** Plain calls of clients that need no session. A future that times out or is cancelled stops its call. */
import type * as z from 'zod';
import { APIFuture } from '../core/api-future.ts';
import type { Backend, LazyBackend } from './backend.ts';
import type { Call } from './http.ts';

interface CallSettings {
  signal?: AbortSignal;
}

export class RestCaller {
  readonly #backend: LazyBackend;

  constructor(backend: LazyBackend) {
    this.#backend = backend;
  }

  /** Work that may take several calls. */
  run<T>(settings: CallSettings, work: (backend: Backend, signal: AbortSignal) => Promise<T>): APIFuture<T> {
    settings.signal?.throwIfAborted();
    return new APIFuture(async ({ signal }) => work(await this.#backend.get(), signal), {
      signal: settings.signal,
      cancelOnTimeout: true,
    });
  }

  /** A call whose answer the schema describes. */
  send<S extends z.ZodType>(call: Call, schema: S, settings: CallSettings): APIFuture<z.infer<S>> {
    return this.run(settings, ({ http }, signal) => http.json({ ...call, signal }, schema));
  }

  /** A GET below `/api/v1`. */
  get<S extends z.ZodType>(
    path: string,
    schema: S,
    settings: CallSettings,
    query?: Call['query'],
  ): APIFuture<z.infer<S>> {
    return this.send({ method: 'GET', path: `/api/v1${path}`, query }, schema, settings);
  }

  /** A call that answers nothing but success. */
  done(call: Call, settings: CallSettings): APIFuture<void> {
    return this.run(settings, async ({ http }, signal) => {
      await http.send({ ...call, signal });
    });
  }
}

/** A request that the server has taken, and the wait for its result. */
import { UntypedApiFuture } from '@anneal/types';
import type { FutureContext } from '../core/api-future.ts';
import type { Backend } from './backend.ts';
import type { Call } from './http.ts';
import { pollResult } from './poll.ts';
import type { QueueWatch } from './queue-watch.ts';
import type { ResultKind } from './result-kind.ts';

export interface Submission {
  promise: UntypedApiFuture;
  roundtripMs: number;
}

/** Sends a request whose result is fetched later. */
export async function submit(backend: Backend, call: Call): Promise<Submission> {
  const start = performance.now();
  const promise = await backend.http.json(call, UntypedApiFuture);
  return { promise, roundtripMs: performance.now() - start };
}

/** Waits for the result. */
export function fetchResult<T>(
  backend: Backend,
  { promise, roundtripMs }: Submission,
  kind: ResultKind<T>,
  queue: QueueWatch,
  context: Pick<FutureContext, 'signal' | 'promised'>,
): Promise<T> {
  const { request_id: requestId } = promise;
  context.promised(requestId);
  return pollResult(backend, { requestId, kind, signal: context.signal, queue, roundtripMs });
}

import type { Session, Store, TracedRequest } from '@anneal/store';

/** Enough for days of training; a viewer has trouble with more. */
const MAX_REQUESTS = 200_000;

const BEGIN = 'b';
const END = 'e';

/**
 * A session's requests on a time line, in the Trace Event Format that Perfetto and Chrome open: a track for each model and
 * sampler, and for each remembered request the time from its arrival to its end. Times are microseconds since 1970.
 */
export async function sessionTrace(store: Store, session: Session): Promise<Buffer> {
  const requests = await store.usage.requests(session.id, MAX_REQUESTS);
  const tracks = [...new Set(requests.map(({ target }) => target))];
  const names = tracks.map((name, index) => ({
    ph: 'M',
    name: 'process_name',
    pid: index + 1,
    args: { name },
  }));
  const events = requests.flatMap((request) => spanOf(request, tracks.indexOf(request.target) + 1));
  const otherData = {
    session: session.id,
    requests: requests.length,
    complete: requests.length < MAX_REQUESTS,
  };
  return Buffer.from(
    JSON.stringify({ traceEvents: [...names, ...events], displayTimeUnit: 'ms', otherData }),
  );
}

/** Requests overlap, so each is an asynchronous span with an id of its own. */
function spanOf({ requestId, kind, state, createdAt, finishedAt }: TracedRequest, pid: number): object[] {
  const common = { name: kind, cat: kind, pid, tid: 1, id: requestId };
  const begin = { ...common, ph: BEGIN, ts: createdAt * 1000, args: { request_id: requestId, state } };
  return finishedAt === null ? [begin] : [begin, { ...common, ph: END, ts: finishedAt * 1000 }];
}

/** What a run was asked, as lines: page by page, and on as its requests end. */
import { setTimeout as sleep } from 'node:timers/promises';
import { type ConsoleCall, ConsoleCalls } from '@anneal/types/console';
import { type Connection, callServer } from '../remote.ts';

const LOOK_EVERY_MS = 1000;
/**
 * How far the server's cursor, in microseconds, is taken back between looks: of calls that end at one time, one may be
 * written after another with a later number.
 */
const OVERLAP = 5_000_000;
/** The most that the server gives at once. */
const PAGE = 1000;

export interface LogOptions {
  /** Only the latest so many. */
  tail?: number | undefined;
  /** Go on until the run ends or `signal` is aborted. */
  follow?: boolean | undefined;
  signal: AbortSignal;
}

/** Requests of a run in the order of their ends; at last, without `follow`, those that have not ended. */
export async function* callsOf(
  connection: Connection,
  run: string,
  { tail, follow, signal }: LogOptions,
): AsyncGenerator<ConsoleCall> {
  let query = tail === undefined ? 'after=0' : `last=true&limit=${Math.min(tail, PAGE)}`;
  let known = new Set<string>();
  let since: number | undefined;
  for (;;) {
    const page = await read(connection, run, query, signal);
    // What ended before the first of the latest was not asked for.
    since ??= tail === undefined ? 0 : (page.calls[0]?.ended_at ?? 0);
    const news = page.calls.filter(
      ({ request_id, ended_at }) => !known.has(request_id) && ended_at! >= since!,
    );
    yield* news;
    if (!page.more && !follow) return yield* page.pending;
    known = new Set(page.calls.map(({ request_id }) => request_id));
    query = `after=${page.more ? page.cursor : Math.max(page.cursor - OVERLAP, 0)}`;
    if (page.more) continue;
    if (page.run_ended && page.pending.length === 0 && news.length === 0) return;
    await sleep(LOOK_EVERY_MS, undefined, { signal }).catch(() => {});
    if (signal.aborted) return;
  }
}

async function read(connection: Connection, run: string, query: string, signal: AbortSignal) {
  const path = `/console/api/runs/${encodeURIComponent(run)}/calls?${query}`;
  return ConsoleCalls.parse(await (await callServer(connection, path, { signal })).json());
}

/** `2026-01-31T12:00:00.000Z  forward_backward  #3  512 tokens  0.84 s  loss:sum 3.2`. */
export function describeCall(call: ConsoleCall): string {
  const { ended_at: end, tokens, metrics, state, error } = call;
  const parts = [
    new Date(end ?? call.submitted_at).toISOString(),
    call.kind.padEnd(16),
    call.seq === null ? '' : `#${call.seq}`,
    state === 'pending' ? (call.started_at === null ? 'waits' : 'runs') : durationOf(call),
    tokens === null ? '' : `${tokens} tokens`,
    ...Object.entries(metrics).map(([name, value]) => `${name} ${Number(value.toPrecision(5))}`),
    error === null ? '' : `failed: ${error}`,
  ];
  return parts.filter((part) => part !== '').join('  ');
}

/** Seconds of work, and of waiting before it where that is worth a word. */
function durationOf({ submitted_at: submitted, started_at: started, ended_at: end }: ConsoleCall): string {
  if (end === null) return '';
  const begin = started ?? submitted;
  const waited = begin - submitted;
  const wait = waited >= 100 ? ` after ${seconds(waited)}` : '';
  return `${seconds(end - begin)}${wait}`;
}

function seconds(milliseconds: number): string {
  return `${(milliseconds / 1000).toFixed(2)} s`;
}

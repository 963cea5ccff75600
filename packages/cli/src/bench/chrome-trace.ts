/**
 * Profiles as a file for Perfetto (ui.perfetto.dev) and chrome://tracing: the Trace Event Format, "complete" events, times
 * in microseconds.
 */
import type { Profile, Span } from '@anneal/tensorflow';

export interface TraceEvent {
  name: string;
  cat: string;
  /** `X`: a span. `M`: the name of a thread. */
  ph: 'X' | 'M';
  pid: number;
  tid: number;
  ts: number;
  dur?: number;
  args?: Record<string, unknown>;
}

export interface ChromeTrace {
  traceEvents: TraceEvent[];
  displayTimeUnit: 'ms';
  otherData: Record<string, unknown>;
}

/** What happens outside the engine, as a thread of its own: the benchmark's cases and runs. */
export interface Mark {
  name: string;
  /** Milliseconds since the epoch. */
  start: number;
  duration: number;
}

const ENGINE_THREAD = 1;
const BENCH_THREAD = 2;
/** Registered functions carry a prefix and a number, which no reader needs. */
const REGISTERED = /^anneal_(.*)_\d+$/;

export function chromeTrace(profile: Profile, marks: Mark[], about: Record<string, unknown>): ChromeTrace {
  const begin = Math.min(earliest(profile.spans), earliest(marks));
  const micros = (ms: number) => Math.round((ms - begin) * 1e6) / 1e3;
  const event = (tid: number, cat: string, { name, start, duration, args }: Mark & Pick<Span, 'args'>) => ({
    name: name.replace(REGISTERED, '$1'),
    cat,
    ph: 'X' as const,
    pid: process.pid,
    tid,
    ts: micros(start),
    // The end is rounded, not the duration: an inner span must not stick out of the one around it.
    dur: Math.max(0, micros(start + duration) - micros(start)),
    ...(args ? { args } : {}),
  });
  return {
    traceEvents: [
      threadName(ENGINE_THREAD, 'engine'),
      threadName(BENCH_THREAD, 'bench'),
      ...marks.map((mark) => event(BENCH_THREAD, 'bench', mark)),
      ...profile.spans.map((span) => event(ENGINE_THREAD, span.category, span)).sort((a, b) => a.ts - b.ts),
    ],
    displayTimeUnit: 'ms',
    otherData: { ...about, droppedSpans: profile.dropped },
  };
}

/** A loop, since arguments of a call are limited in number. */
function earliest(entries: { start: number }[]): number {
  let least = Number.POSITIVE_INFINITY;
  for (const { start } of entries) least = Math.min(least, start);
  return least;
}

function threadName(tid: number, name: string): TraceEvent {
  return { name: 'thread_name', cat: '__metadata', ph: 'M', pid: process.pid, tid, ts: 0, args: { name } };
}

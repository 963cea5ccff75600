/**
 * Records what this thread does, as spans that nest: units of the scheduler, compiled functions, single ops. Off, it costs
 * one comparison per span.
 */

/** `unit`: a pass, a prefill, a step. `call`: a compiled function. `compile`: tracing one. `op`: an op outside of any. */
export type SpanCategory = 'unit' | 'call' | 'compile' | 'op';

export interface Span {
  name: string;
  category: SpanCategory;
  /** Milliseconds since the epoch, with fractions: the same clock in every thread. */
  start: number;
  /** Milliseconds. On a GPU, a call or an op ends when it is queued; what waits for it is `read values`. */
  duration: number;
  args?: Record<string, string | number>;
}

export interface Profile {
  /** In the order in which they ended: inner ones before those around them. */
  spans: Span[];
  /** Spans beyond what is kept. */
  dropped: number;
}

/** Some hundred train steps; more would fill the memory, and no viewer shows it. */
const MOST_SPANS = 200_000;

let recording: Profile | undefined;

/** Begins to record in this thread; what was recorded before is thrown away. */
export function startProfile(): void {
  recording = { spans: [], dropped: 0 };
}

/** Ends recording and hands out what there is; nothing where it was never begun. */
export function stopProfile(): Profile {
  const profile = recording ?? { spans: [], dropped: 0 };
  recording = undefined;
  return profile;
}

/** Both ends of a span are rounded as this is, and in one direction: a span never ends after the one around it. */
function now(): number {
  return performance.timeOrigin + performance.now();
}

/** Runs synchronous `work` as a span. `args` is called before it, and only while recording. */
export function profiled<T>(
  category: SpanCategory,
  name: string,
  work: () => T,
  args?: () => Record<string, string | number>,
): T {
  if (recording === undefined) return work();
  const profile = recording;
  const described = args && { args: args() };
  const start = now();
  try {
    return work();
  } finally {
    if (profile.spans.length < MOST_SPANS) {
      profile.spans.push({ name, category, start, duration: now() - start, ...described });
    } else profile.dropped++;
  }
}

/** Times one case: prepared once, warmed up, repeated. */
import type { BenchCase, Run } from './bench-case.ts';
import type { Mark } from './chrome-trace.ts';
import { watchPeak } from './memory-watch.ts';
import { type CaseResult, median } from './result.ts';
import type { Subject } from './subject.ts';

/** Runs before the timed ones: the first compiles, the second finds what the first left behind. */
const WARM_UPS = 2;

export interface RunCaseOptions {
  repeats: number;
  /** Gives a number that no run has had. */
  nextSeed(): number;
  onMark?(mark: Mark): void;
}

export async function runCase(
  bench: BenchCase,
  subject: Subject,
  options: RunCaseOptions,
): Promise<CaseResult> {
  const peak = subject.pid === undefined ? undefined : watchPeak(subject.pid);
  const open = await bench.open(subject);
  const run = async (kind: string) => {
    const start = performance.now();
    const result = await open.run(options.nextSeed());
    const duration = performance.now() - start;
    options.onMark?.({ name: `${bench.id} ${kind}`, start: performance.timeOrigin + start, duration });
    return result;
  };
  try {
    const first = await run('first');
    for (let i = 1; i < WARM_UPS; i++) await run('warm-up');
    const runs: Run[] = [];
    while (runs.length < options.repeats) runs.push(await run(`run ${runs.length + 1}`));
    const peakBytes = peak?.();
    return {
      ...summary(bench, runs),
      details: { ...partMedians(runs), ...(await open.facts?.()) },
      peakBytes,
      firstSeconds: first.seconds,
    };
  } finally {
    await open.close();
  }
}

/**
 * The fastest run and the median one; of an even number, the slower one in the middle. Runs are ranked by their time per
 * token, since those of one case may differ by a few tokens.
 */
export function summary({ id, title }: Pick<BenchCase, 'id' | 'title'>, runs: Run[]) {
  const ranked = [...runs].sort((a, b) => cost(a) - cost(b));
  const best = ranked[0]!;
  const middle = ranked[Math.floor(ranked.length / 2)]!;
  return {
    id,
    title,
    tokens: middle.tokens,
    seconds: runs.map((run) => run.seconds),
    secondsMin: best.seconds,
    secondsMedian: middle.seconds,
    ...(runs.every((run) => run.tokens > 0)
      ? {
          tokensPerSecondBest: best.tokens / best.seconds,
          tokensPerSecondMedian: middle.tokens / middle.seconds,
        }
      : {}),
  };
}

function cost({ seconds, tokens }: Run): number {
  return seconds / Math.max(1, tokens);
}

function partMedians(runs: Run[]): Record<string, number> {
  const names = Object.keys(runs[0]?.parts ?? {});
  return Object.fromEntries(names.map((name) => [name, median(runs.map((run) => run.parts?.[name] ?? 0))]));
}

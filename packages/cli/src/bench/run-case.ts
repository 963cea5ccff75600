/** Times one case: prepared once, warmed up, repeated. */
import type { BenchCase, Run } from './bench-case.ts';
import { watchPeak } from './memory-watch.ts';
import { type CaseResult, median } from './result.ts';
import type { Subject } from './subject.ts';

/** Runs before the timed ones: the first compiles, the second finds what the first left behind. */
const WARM_UPS = 2;

/** @param seeds Gives a number that no run has had. */
export async function runCase(
  bench: BenchCase,
  subject: Subject,
  repeats: number,
  seeds: () => number,
): Promise<CaseResult> {
  const peak = subject.pid === undefined ? undefined : watchPeak(subject.pid);
  const open = await bench.open(subject);
  try {
    const first = await open.run(seeds());
    for (let i = 1; i < WARM_UPS; i++) await open.run(seeds());
    const runs: Run[] = [];
    while (runs.length < repeats) runs.push(await open.run(seeds()));
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

/** Runs of one case do the same number of tokens, but for sequences that start early: rates are taken run by run. */
export function summary({ id, title }: Pick<BenchCase, 'id' | 'title'>, runs: Run[]) {
  const seconds = runs.map((run) => run.seconds);
  const rates = runs.map((run) => run.tokens / run.seconds);
  const isRate = runs.every((run) => run.tokens > 0);
  return {
    id,
    title,
    tokens: median(runs.map((run) => run.tokens)),
    seconds,
    secondsMin: Math.min(...seconds),
    secondsMedian: median(seconds),
    ...(isRate ? { tokensPerSecondBest: Math.max(...rates), tokensPerSecondMedian: median(rates) } : {}),
  };
}

function partMedians(runs: Run[]): Record<string, number> {
  const names = Object.keys(runs[0]?.parts ?? {});
  return Object.fromEntries(names.map((name) => [name, median(runs.map((run) => run.parts?.[name] ?? 0))]));
}

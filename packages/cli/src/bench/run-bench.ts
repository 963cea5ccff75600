/** Runs the chosen cases on a subject, one after another. */
import type { BenchCase } from './bench-case.ts';
import type { Mark } from './chrome-trace.ts';
import { availableBytes, MemoryWatch, residentBytes } from './memory-watch.ts';
import type { BenchResult, CaseResult, MemoryCurve } from './result.ts';
import { runCase } from './run-case.ts';
import { samplingCases } from './sampling-cases.ts';
import type { Subject } from './subject.ts';
import { trainingCases } from './training-cases.ts';

export interface BenchOptions {
  /** Beginnings of case ids; empty: all. */
  only: string[];
  quick: boolean;
  repeats: number;
  say(line: string): void;
  onMark?(mark: Mark): void;
}

export const subjectCases: BenchCase[] = [...trainingCases, ...samplingCases];

export interface CasesResult extends Pick<BenchResult, 'cases' | 'skipped'> {
  memory?: MemoryCurve;
}

/** Attention can make memory grow with the square of the length. */
const GROWTH_PER_DOUBLING = 4;

/** Runs what `options` ask for; a case that fails ends the benchmark, since a missing number must not go unnoticed. */
export async function runSubjectCases(
  subject: Subject,
  cases: BenchCase[],
  options: BenchOptions,
): Promise<CasesResult> {
  const watch = subject.pid === undefined ? undefined : new MemoryWatch(subject.pid);
  const results: CaseResult[] = [];
  const skipped: BenchResult['skipped'] = [];
  let seed = 0;
  for (const bench of cases) {
    if (!isWanted(bench, options)) continue;
    const reason = bench.skip?.(subject) ?? memoryProblem(bench, subject, results);
    if (reason !== undefined) {
      skipped.push({ id: bench.id, reason });
      options.say(`skipped ${bench.id}: ${reason}`);
      continue;
    }
    options.say(`${bench.id}: ${bench.title}`);
    results.push(await runCase(bench, subject, { ...options, nextSeed: () => seed++ }));
  }
  const memory = watch?.stop(Math.max(0, ...results.map(({ peakBytes }) => peakBytes ?? 0)));
  return { cases: results, skipped, memory };
}

export function isWanted(
  { id, slow }: Pick<BenchCase, 'id' | 'slow'>,
  { only, quick }: Pick<BenchOptions, 'only' | 'quick'>,
): boolean {
  if (only.length > 0) return only.some((start) => id.startsWith(start));
  return !(quick && slow);
}

/** A longer context is tried only where the memory of the one before, grown by the worst law, would fit. */
function memoryProblem({ id }: BenchCase, { pid }: Subject, before: CaseResult[]): string | undefined {
  const last = before.at(-1);
  if (!id.startsWith('context/') || !last?.id.startsWith('context/') || pid === undefined) return undefined;
  const inUse = residentBytes(pid);
  const needed = GROWTH_PER_DOUBLING * Math.max(0, (last.peakBytes ?? 0) - inUse);
  const available = availableBytes();
  if (needed <= available) return undefined;
  const gib = (bytes: number) => `${(bytes / 2 ** 30).toFixed(1)} GiB`;
  return `it might take ${gib(needed)} more, and ${gib(available)} are available`;
}

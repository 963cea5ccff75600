/** A benchmark's result as a table for people. */
import { bytes, facts, table } from '../output/print.ts';
import type { BenchResult, CaseResult } from './result.ts';

export function formatResult(result: BenchResult): string {
  const { machine, memory } = result;
  const head = facts([
    ['model', result.model],
    ['precision', result.precision],
    ['subject', result.subject],
    ['backend', result.backend],
    ['machine', `${machine.cpu}, ${machine.cores} cores, ${bytes(machine.memoryBytes)}`],
    ['load before', machine.loadAverage.toFixed(2)],
    ['repeats', result.repeats],
    ...Object.entries(memory ?? {}).map(([name, { peakBytes }]): [string, string] => [
      `peak memory of the ${name}`,
      bytes(peakBytes),
    ]),
  ]);
  const rows = result.cases.map((entry) => [
    entry.id,
    rate(entry.tokensPerSecondBest),
    rate(entry.tokensPerSecondMedian),
    duration(entry.secondsMin),
    duration(entry.secondsMedian),
    entry.firstSeconds === undefined ? '' : duration(entry.firstSeconds),
    bytes(entry.peakBytes),
    details(entry),
  ]);
  const columns = ['case', 'tok/s best', 'median', 'time best', 'median', 'first', 'peak memory', 'details'];
  const skipped = result.skipped.map(({ id, reason }) => `skipped ${id}: ${reason}`);
  return [head, '', table(columns, rows, 'No cases.'), ...(skipped.length > 0 ? ['', ...skipped] : [])].join(
    '\n',
  );
}

function details(entry: CaseResult): string {
  return Object.entries(entry.details)
    .map(([name, value]) => `${name} ${isShare(name) ? `${(value * 100).toFixed(1)} %` : duration(value)}`)
    .join(', ');
}

/** Details are times, but for what is named here. */
function isShare(name: string): boolean {
  return name === 'paddingWaste';
}

function rate(tokensPerSecond: number | undefined): string {
  return tokensPerSecond === undefined ? '' : tokensPerSecond.toFixed(tokensPerSecond < 100 ? 1 : 0);
}

/** Seconds in the unit that suits them. */
export function duration(seconds: number): string {
  if (seconds >= 1) return `${seconds.toFixed(2)} s`;
  const ms = seconds * 1000;
  return `${ms.toFixed(ms < 10 ? 2 : 0)} ms`;
}

/** What a benchmark finds, as `--json` prints it. */
import { z } from 'zod';

const seconds = z.number().nonnegative();

export const CaseResult = z.strictObject({
  id: z.string(),
  title: z.string(),
  /** Tokens of work in one run; 0 for a latency. */
  tokens: z.number().nonnegative(),
  /** Wall time of each run, in order. */
  seconds: z.array(seconds),
  secondsMin: seconds,
  secondsMedian: seconds,
  /** Of the fastest run and of the median one; absent for a latency. */
  tokensPerSecondBest: z.number().optional(),
  tokensPerSecondMedian: z.number().optional(),
  /** Medians of further times of the runs, in seconds, and other facts. */
  details: z.record(z.string(), z.number()),
  /** Highest resident memory while the case was prepared and run; absent where the process is elsewhere. */
  peakBytes: z.number().optional(),
  /** What the first run took, compiling included. */
  firstSeconds: seconds.optional(),
});

export type CaseResult = z.infer<typeof CaseResult>;

export const MemoryCurve = z.strictObject({
  peakBytes: z.number(),
  /** Seconds since the start of the cases, and bytes then. */
  points: z.array(z.tuple([z.number(), z.number()])),
});

export type MemoryCurve = z.infer<typeof MemoryCurve>;

export const BenchResult = z.strictObject({
  version: z.string(),
  date: z.iso.datetime(),
  machine: z.strictObject({
    cpu: z.string(),
    cores: z.number(),
    features: z.array(z.string()),
    memoryBytes: z.number(),
    os: z.string(),
    node: z.string(),
    /** One-minute load when the benchmark began: other work on the machine makes all numbers worse. */
    loadAverage: z.number(),
  }),
  subject: z.string(),
  backend: z.string().optional(),
  model: z.string(),
  precision: z.string().optional(),
  repeats: z.number(),
  cases: z.array(CaseResult),
  skipped: z.array(z.strictObject({ id: z.string(), reason: z.string() })),
  /** Resident memory over the whole run, by process. */
  memory: z.record(z.string(), MemoryCurve).optional(),
});

export type BenchResult = z.infer<typeof BenchResult>;

/** Of numbers in any order; the lower one of two in the middle. */
export function median(values: number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor((sorted.length - 1) / 2)] ?? 0;
}

/** The value below which a share of the numbers lies. */
export function quantile(values: number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.ceil(share * sorted.length) - 1)] ?? 0;
}

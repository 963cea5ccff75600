/** What a case is: something that is prepared once and then timed a number of times. */
import type { Subject } from './subject.ts';

/** One timed run. */
export interface Run {
  seconds: number;
  /** Tokens of work done in that time; 0 for what is a latency and not a rate. */
  tokens: number;
  /** Further times of the same run, in seconds, by name. */
  parts?: Record<string, number>;
}

export interface OpenCase {
  /** The seed decides the token ids; a number that was used before would let caches of prompts help. */
  run(seed: number): Promise<Run>;
  /** What is known after the runs, besides times: counts and shares, by name. */
  facts?(): Promise<Record<string, number>>;
  close(): Promise<void>;
}

export interface BenchCase {
  /** Group and variant: `decode/8/mixed`. `--case` takes any beginning of it. */
  id: string;
  title: string;
  /** Left out by `--quick`. */
  slow?: boolean;
  /** Why this subject cannot run it, for the report. */
  skip?(subject: Subject): string | undefined;
  open(subject: Subject): Promise<OpenCase>;
}

/** Runs `work` and takes its time. */
export async function timed(work: () => Promise<unknown>): Promise<number> {
  const start = performance.now();
  await work();
  return (performance.now() - start) / 1000;
}

/** The reason to skip a case whose sequences have more tokens than the model takes. */
export function tooLong(length: number): (subject: Subject) => string | undefined {
  return ({ maxContextLength }) =>
    length > maxContextLength ? `the model's context is ${maxContextLength} tokens` : undefined;
}

/** A request on its way through the sampler. */
import { EngineError, type SampleOptions, type SampleRequest, type SampleResult } from '../engine.ts';
import type { LoraAdapter } from '../lora/adapter.ts';
import { bucketWidth } from '../training/batch-plan.ts';
import type { PromptPass } from './prompt-pass.ts';
import type { Sequence } from './sequence.ts';

export interface Job {
  request: SampleRequest;
  /** What the prefix cache knows the prompt by: its ids, those of images by their content. */
  key: Int32Array;
  /** How far its next position is from its number of tokens: images take fewer positions than tokens. */
  positionShift: number;
  adapter: LoraAdapter | undefined;
  seed: bigint;
  options: SampleOptions;
  sequences: Sequence[];
  /** The prompt's prefill, where it goes in pieces and has begun. */
  pass: PromptPass | undefined;
  /** Tokens of the prompt that were not computed, because another one began alike. */
  cachedTokens: number;
  /** Sequences that have been prefilled. */
  started: number;
  scores: Partial<SampleResult>;
  scored: boolean;
  resolve: (result: SampleResult) => void;
  reject: (error: Error) => void;
  settled: boolean;
}

/** A running sequence and its slot's owner. */
export interface Running {
  job: Job;
  sequence: Sequence;
}

/** Jobs that are prefilled together, and how many of each one's sequences start. */
export type PrefillGroup = { job: Job; count: number }[];

/** A prefill as profiles show it: prompts and the sequences that go on from them. */
export function prefillArgs(group: PrefillGroup) {
  const lengths = group.map(({ job }) => job.request.prompt.length);
  return {
    sampler: [...new Set(group.map(({ job }) => job.request.samplerId))].join(),
    batch: group.length,
    width: bucketWidth(Math.max(...lengths)),
    tokens: lengths.reduce((sum, length) => sum + length, 0),
    sequences: group.reduce((sum, { count }) => sum + count, 0),
  };
}

export function cancelled(): EngineError {
  return new EngineError('user', 'The sample was cancelled.');
}

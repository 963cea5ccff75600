/** Chooses each row's next token from the head's output: greedy, by temperature on the device, or truncated on the host. */
import { type Tensor, tf } from '@anneal/tensorflow';
import type { BatchedAdapters } from './batch-adapters.ts';
import type { Decoder } from './decoder.ts';
import type { HeadOutput } from './head-outputs.ts';
import type { Sequence, TopkRow } from './sequence.ts';
import { type Candidates, drawFrom, sortedCandidates, truncate } from './truncate.ts';

export interface Row {
  sequence: Sequence;
  /** Best tokens to report beside the chosen one. */
  topk: number;
}

export interface Choice {
  token: number;
  /** Under the untempered, untruncated distribution. */
  logprob: number;
  topk: TopkRow | undefined;
}

/** Candidate counts that are compiled; beyond the last the whole row is read and sorted. */
const CANDIDATE_BUCKETS = [16, 128, 1024];

/**
 * @param x Hidden rows, [rows, 1, hidden]
 * @param rows May be shorter than x; rows without an entry are padding.
 */
export function pickTokens(
  decoder: Decoder,
  x: Tensor,
  adapters: BatchedAdapters,
  rows: (Row | undefined)[],
): (Choice | undefined)[] {
  const every = Array.from({ length: x.shape[0] as number }, (_, i) => rows[i]?.sequence);
  const out = decoder.head(x, adapters, {
    temperature: Float32Array.from(every, (sequence) => sequence?.params.temperature || 1),
    draws: every.map((sequence) =>
      sequence && sequence.params.temperature > 0 && !isTruncated(sequence) ? sequence.nextDraw() : undefined,
    ),
    candidates: candidateCount(rows, decoder.vocabSize),
  });
  const choices = rows.map((row, i) => row && choose(row, out, i));
  out.logits.dispose();
  return choices;
}

function candidateCount(rows: (Row | undefined)[], vocabSize: number): number {
  const needed = Math.max(
    0,
    ...rows.map((row) =>
      row ? Math.max(row.topk, isTruncated(row.sequence) ? Math.max(128, row.sequence.params.topK) : 0) : 0,
    ),
  );
  if (needed === 0) return 0;
  return Math.min(
    vocabSize,
    CANDIDATE_BUCKETS.find((bucket) => bucket >= needed) ?? (CANDIDATE_BUCKETS.at(-1) as number),
  );
}

function isTruncated({ params }: Sequence): boolean {
  return params.temperature > 0 && (params.topK > 0 || params.topP < 1);
}

function choose({ sequence, topk }: Row, out: HeadOutput, row: number): Choice {
  const logTotal = out.logTotal[row] as number;
  const k = out.topIds.length / out.argmax.length;
  const candidates: Candidates = {
    ids: out.topIds.subarray(row * k, (row + 1) * k),
    logits: out.topLogits.subarray(row * k, (row + 1) * k),
  };
  const reported =
    topk > 0 ? reportedRow(topk <= k ? candidates : fullRow(out, row), topk, logTotal) : undefined;
  const done = (token: number, logit: number): Choice => ({
    token,
    logprob: Math.min(0, logit - logTotal),
    topk: reported,
  });
  if (sequence.params.temperature === 0)
    return done(out.argmax[row] as number, out.argmaxLogit[row] as number);
  if (!isTruncated(sequence)) return done(out.drawn[row] as number, out.drawnLogit[row] as number);
  return drawTruncated(sequence, candidates, out, row, done);
}

function drawTruncated(
  sequence: Sequence,
  candidates: Candidates,
  out: HeadOutput,
  row: number,
  done: (token: number, logit: number) => Choice,
): Choice {
  const mass = out.mass[row] as number;
  const vocabSize = out.logits.shape[1] as number;
  let from = candidates;
  let distribution = truncate(from, sequence.params, mass, vocabSize);
  if (!distribution) {
    from = fullRow(out, row);
    distribution = truncate(from, sequence.params, mass, vocabSize)!;
  }
  const token = drawFrom(distribution, sequence.nextNoise());
  return done(token, from.logits[from.ids.indexOf(token)] as number);
}

function fullRow(out: HeadOutput, row: number): Candidates {
  const slice = tf.slice(out.logits, [row, 0], [1, -1]);
  const values = slice.dataSync() as Float32Array;
  slice.dispose();
  return sortedCandidates(values);
}

function reportedRow(candidates: Candidates, k: number, logTotal: number): TopkRow {
  return {
    ids: Array.from({ length: Math.min(k, candidates.ids.length) }, (_, i) => candidates.ids[i] as number),
    logprobs: Array.from({ length: Math.min(k, candidates.ids.length) }, (_, i) =>
      Math.min(0, (candidates.logits[i] as number) - logTotal),
    ),
  };
}

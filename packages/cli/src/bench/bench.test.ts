import path from 'node:path';
import { expect, test } from 'vitest';
import { bench } from './bench.ts';
import { BenchResult } from './result.ts';

const model = path.join(import.meta.dirname, '../../../engine/fixtures/arch/llama3/model');
const options = { model, precision: 'fp32' as const, quick: true, json: true, repeat: 2 };

test('a short run of engine and server gives finite numbers that agree with each other', async () => {
  const ofServer = ['start', 'first', 'next', 'latency/one-token', 'get-info', 'empty'].map(
    (id) => `server/${id}`,
  );
  const cases = [
    'train/mixed',
    'context/512',
    'context/1024',
    'decode/8/mixed',
    'first-token/32',
    ...ofServer,
  ];
  const result = BenchResult.parse(
    JSON.parse(JSON.stringify(await bench({ ...options, case: cases }, () => {}))),
  );
  expect(result.cases.map(({ id }) => id)).toEqual([
    'train/mixed',
    'context/512',
    'decode/8/mixed',
    'first-token/32',
    'server/start',
    'server/first-step',
    'server/next-shape',
    'server/latency/one-token',
    'server/get-info',
    'server/empty-optim-step',
  ]);
  expect(result.skipped).toEqual([{ id: 'context/1024', reason: "the model's context is 512 tokens" }]);
  for (const entry of result.cases) {
    expect(entry.secondsMin, entry.id).toBeGreaterThan(0);
    expect(entry.secondsMin).toBeLessThanOrEqual(entry.secondsMedian);
    expect(entry.seconds).toContain(entry.secondsMedian);
    const rate = entry.tokensPerSecondMedian ?? 0;
    expect(rate * entry.secondsMedian).toBeCloseTo(entry.tokens, 6);
    expect(rate).toBeLessThanOrEqual(entry.tokensPerSecondBest ?? 0);
  }
  const [mixed, context, decode] = result.cases;
  expect(mixed!.seconds).toHaveLength(2);
  expect(mixed!.details.paddingWaste).toBeGreaterThan(0);
  expect(mixed!.details.paddingWaste).toBeLessThan(0.5);
  expect(context!.tokens).toBe(512);
  // All 64 tokens of 8 sequences, less those drawn until the last of them had begun.
  expect(decode!.tokens).toBeGreaterThan(0);
  expect(decode!.tokens).toBeLessThanOrEqual(8 * 63);
  expect(result.cases.at(-1)!.details.p99).toBeGreaterThanOrEqual(result.cases.at(-1)!.details.p50!);
  for (const { peakBytes, points } of Object.values(result.memory!)) {
    expect(peakBytes).toBe(Math.max(peakBytes, ...points.map(([, bytes]) => bytes)));
  }
}, 600_000);

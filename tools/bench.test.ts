import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
// @ts-expect-error The bench tools are plain JavaScript.
import { writeTables } from './bench/report.mjs';
// @ts-expect-error The bench tools are plain JavaScript.
import { judge, TARGETS } from './bench/targets.mjs';

const docs = readFileSync(join(import.meta.dirname, '..', 'docs', 'benchmarks.md'), 'utf8');

const report = {
  matmul: { size: 1024, fp32: 100, bf16: 400 },
  parameters: 100e6,
  comparison: {
    contenders: { 'anneal auto': 'engine', 'torch fp32': 'torch 2', 'torch bf16': 'torch 2' },
    cases: [
      {
        id: 'train/4x256',
        results: {
          'anneal auto': { best: 610, median: 600, peakBytes: 2e9 },
          'torch fp32': { best: 210, median: 200, peakBytes: 5e9 },
          'torch bf16': { best: 310, median: 300, peakBytes: 3e9 },
        },
        ratios: [
          { name: 'anneal auto', other: 'torch fp32', min: 2.9, median: 3 },
          { name: 'anneal auto', other: 'torch bf16', min: 1.8, median: 2 },
        ],
      },
    ],
  },
  bench: {
    version: '1.2.3',
    date: '2026-01-02T03:04:05.000Z',
    backend: 'TensorFlow 2',
    model: 'org/tiny',
    machine: {
      cpu: 'A CPU',
      cores: 2,
      features: ['avx2'],
      memoryBytes: 8e9,
      os: 'Linux',
      node: '22',
      loadAverage: 0.25,
    },
    skipped: [{ id: 'context/4096', reason: 'too long' }],
    cases: [
      {
        id: 'train/4x256',
        secondsMin: 1,
        secondsMedian: 1.1,
        tokensPerSecondBest: 610,
        tokensPerSecondMedian: 600,
        details: {},
      },
      { id: 'server/start', secondsMin: 5.5, secondsMedian: 6, details: {} },
    ],
  },
};

const judged = (work: string) =>
  TARGETS.filter((target: { work: string }) => target.work === work).map((target: object) =>
    judge(target, report),
  );

test('targets are judged by medians, against the fastest of the others', () => {
  expect(judged('LoRA r16 train step 4x256, best precision')).toEqual([{ shown: '2.00 ×', met: true }]);
  // 600 tokens/s of 4 × 10^8 FLOPs are 240 of 400 GFLOP/s.
  expect(judged('same, in useful FLOPs')).toEqual([{ shown: '60 %', met: true }]);
  expect(judged('memory of training 4x256, best precision')).toEqual([{ shown: '0.67 ×', met: false }]);
  expect(judged('start until healthy, warm caches')).toEqual([{ shown: '6.0 s', met: false }]);
});

test('what was not measured is said to be so, and meets nothing', () => {
  const nothing = { shown: 'not yet measured', met: undefined };
  expect(judged('same in fp32')).toEqual([nothing]);
  expect(judged('decode batch 8, mixed adapters')).toEqual([nothing, nothing, nothing]);
  for (const target of TARGETS) expect(judge(target, undefined)).toEqual(nothing);
});

test('the page takes a report between its markers, again and again, and keeps its text', () => {
  const filled: string = writeTables(docs, report);
  expect(filled).toContain('Measured on 2026-01-02: A CPU, 2 cores (avx2)');
  expect(filled).toContain('| train/4x256 | torch bf16 | 310.0 | 300.0 | 3.00 GB | 1.80 | 2.00 |');
  expect(filled).toContain('Skipped context/4096: too long.');
  expect(writeTables(filled, report)).toBe(filled);
  const prose = (text: string) => text.replace(/<!-- (\w+) -->[\s\S]*?<!-- \/\1 -->/g, '');
  expect(prose(filled)).toBe(prose(docs));
});

import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { bench } from './bench.ts';
import type { ChromeTrace, TraceEvent } from './chrome-trace.ts';

const model = path.join(import.meta.dirname, '../../../engine/fixtures/arch/llama3/model');
const folder = mkdtempSync(path.join(tmpdir(), 'anneal-bench-test-'));
afterAll(() => rmSync(folder, { recursive: true }));

test('a profile holds the units of each request, what they run inside them, and nests', async () => {
  const profile = path.join(folder, 'trace.json');
  const options = { model, precision: 'fp32' as const, quick: true, json: true, repeat: 1, profile };
  await bench({ ...options, case: ['train/4x256', 'prefill/8x256'] }, () => {});
  const { traceEvents } = JSON.parse(readFileSync(profile, 'utf8')) as ChromeTrace;
  const units = traceEvents.filter(({ cat }) => cat === 'unit');
  const named = (name: string) => units.filter((unit) => unit.name === name);

  const runs = traceEvents.filter(({ cat }) => cat === 'bench');
  expect(runs.map(({ name }) => name)).toEqual([
    'train/4x256 first',
    'train/4x256 warm-up',
    'train/4x256 run 1',
    'prefill/8x256 first',
    'prefill/8x256 warm-up',
    'prefill/8x256 run 1',
  ]);
  // One pass and one update for each of the three runs of a step.
  expect(named('optim step')).toHaveLength(3);
  expect(named('train pass').map(({ args }) => args)).toEqual(
    new Array(3).fill(expect.objectContaining({ batch: 4, height: 4, width: 256, tokens: 1024 })),
  );
  const prompts = named('prefill').reduce((sum, { args }) => sum + Number(args?.tokens), 0);
  expect(prompts).toBe(3 * 8 * 256);
  // A sample of one token ends with its prefill.
  expect(named('decode step')).toEqual([]);

  const spans = traceEvents.filter(({ cat }) => ['unit', 'call', 'compile', 'op'].includes(cat));
  expectNested(spans);
  for (const unit of named('train pass')) {
    const inside = spans.filter((span) => span !== unit && isInside(span, unit));
    expect(new Set(inside.map(({ cat }) => cat))).toContain('call');
    expect(inside.map(({ name }) => name).filter((name) => /^anneal_|_\d+$/.test(name))).toEqual([]);
  }
  expect(spans.filter(({ cat }) => cat === 'compile').length).toBeGreaterThan(0);
}, 600_000);

function isInside(inner: TraceEvent, outer: TraceEvent): boolean {
  const slack = 0.002;
  return inner.ts >= outer.ts - slack && inner.ts + inner.dur! <= outer.ts + outer.dur! + slack;
}

/** Spans of one thread are either apart or one inside the other. */
function expectNested(spans: TraceEvent[]): void {
  const open: TraceEvent[] = [];
  for (const span of [...spans].sort((a, b) => a.ts - b.ts || b.dur! - a.dur!)) {
    while (open.length > 0 && open.at(-1)!.ts + open.at(-1)!.dur! <= span.ts + 0.002) open.pop();
    const around = open.at(-1);
    if (around) expect(isInside(span, around), `${span.name} in ${around.name}`).toBe(true);
    open.push(span);
  }
}

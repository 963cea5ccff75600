import { expect, test } from 'vitest';
import { profiled, startProfile, stopProfile } from './profile.ts';

test('nothing is recorded, and no arguments are made, unless asked for', () => {
  expect(
    profiled(
      'op',
      'add',
      () => 3,
      () => expect.unreachable(),
    ),
  ).toBe(3);
  expect(stopProfile()).toEqual({ spans: [], dropped: 0 });
});

test('spans nest, keep their arguments, and end with what they are around, even when it throws', () => {
  startProfile();
  const outer = () =>
    profiled(
      'unit',
      'outer',
      () =>
        profiled('op', 'inner', () => {
          throw new Error('refused');
        }),
      () => ({ batch: 2 }),
    );
  expect(outer).toThrow('refused');
  const { spans } = stopProfile();
  expect(spans.map(({ name, category, args }) => ({ name, category, args }))).toEqual([
    { name: 'inner', category: 'op', args: undefined },
    { name: 'outer', category: 'unit', args: { batch: 2 } },
  ]);
  const [inner, around] = spans;
  expect(inner!.start).toBeGreaterThanOrEqual(around!.start);
  expect(inner!.start + inner!.duration).toBeLessThanOrEqual(around!.start + around!.duration);
  expect(stopProfile().spans).toEqual([]);
});

test('a long recording stops growing and counts what it leaves out', () => {
  startProfile();
  for (let i = 0; i < 200_007; i++) profiled('op', 'add', () => {});
  const { spans, dropped } = stopProfile();
  expect([spans.length, dropped]).toEqual([200_000, 7]);
});

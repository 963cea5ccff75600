import { expect, test } from 'vitest';
import { appendMetrics, smooth, sortMetrics } from './metrics.ts';

test('smoothing starts at the first value and leaves constants and gaps alone', () => {
  expect(smooth([5, null, 5, 5], 0.9).map((value) => value && Math.round(value * 1e6) / 1e6)).toEqual([
    5,
    null,
    5,
    5,
  ]);
  expect(smooth([1, 2], 0)).toEqual([1, 2]);
  const [first = 0, second = 0] = smooth([0, 1], 0.5) as number[];
  expect(first).toBe(0);
  // (0.5 · 0.5 · 0 + 0.5 · 1) / (1 − 0.5²)
  expect(second).toBeCloseTo(0.5 / 0.75, 10);
});

test('new steps are added once, and new metrics begin with gaps', () => {
  const known = { run_id: 'a', steps: [1, 2], at: [10, 20], series: { loss: [3, 2] } };
  const more = { run_id: 'a', steps: [2, 3], at: [20, 30], series: { loss: [2, 1], kl: [null, 0.5] } };
  expect(appendMetrics(known, more)).toEqual({
    run_id: 'a',
    steps: [1, 2, 3],
    at: [10, 20, 30],
    series: { loss: [3, 2, 1], kl: [null, null, 0.5] },
  });
  expect(appendMetrics(known, known)).toBe(known);
});

test('the loss comes first, what a loss adds second', () => {
  expect(sortMetrics(['loss:sum', 'learning_rate', 'kl:mean', 'loss:mean'])).toEqual([
    'loss:mean',
    'kl:mean',
    'learning_rate',
    'loss:sum',
  ]);
});

import { expect, test } from 'vitest';
import { foldMetrics, type MetricsPart } from './metrics.ts';

test('parts are folded as the SDK folds the requests of a call', () => {
  const parts: MetricsPart[] = [
    {
      datums: 3,
      values: {
        'loss:sum': -1.25,
        'kl:mean': 0.5,
        'ratio:max': 3.5,
        'ratio:min': 0.25,
        'load:slack': 4,
        'cycle:unique': 17,
        'weights:hash2': 9007199254740991,
        'only_here:sum': 1,
        'odd:median': 2,
      },
    },
    {
      datums: 1,
      values: {
        'loss:sum': 4.5,
        'kl:mean': 0.25,
        'ratio:max': 1.5,
        'ratio:min': 0.75,
        'load:slack': 1,
        'cycle:unique': 17,
        'weights:hash2': -12345,
        'odd:median': 3,
      },
    },
    {
      datums: 4,
      values: {
        'loss:sum': 0.125,
        'kl:mean': -1,
        'ratio:max': 2,
        'ratio:min': 0.5,
        'load:slack': 2.5,
        'cycle:unique': 23,
        'weights:hash2': 18446744073709500000,
        'odd:median': 2,
      },
    },
  ];
  // What combine_fwd_bwd_output_results of tinker 0.38 makes of these parts; hash2 in 53 bits.
  expect(foldMetrics(parts)).toEqual({
    'loss:sum': 3.375,
    'kl:mean': -0.28125,
    'ratio:max': 3.5,
    'ratio:min': 0.25,
    'load:slack': 1.125,
    'cycle:unique': 17,
    'cycle:unique_1': 17,
    'cycle:unique_2': 23,
    'weights:hash2': 9007199254677446,
  });
});

test('no parts, no metrics', () => {
  expect(foldMetrics([])).toEqual({});
});

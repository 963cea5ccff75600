/** Joins the results of a split batch. How a metric folds is the part of its name after the colon. */
import type { ForwardBackwardOutput } from '@anneal/types';

type Fold = (values: number[], weights: number[]) => number;

const sum = (values: number[]) => values.reduce((total, value) => total + value, 0);

/** Weighted by the datums of each part. */
const mean: Fold = (values, weights) =>
  sum(values.map((value, index) => value * weights[index]!)) / sum(weights);

/** A hash made of hashes, exact to 64 bits before it becomes a double again. */
const hash2: Fold = (values) =>
  Number(values.reduce((total, value) => BigInt.asUintN(64, total + BigInt(Math.trunc(value))), 0n));

const FOLDS: Record<string, Fold> = {
  sum,
  mean,
  hash2,
  min: (values) => Math.min(...values),
  max: (values) => Math.max(...values),
  slack: (values, weights) => Math.max(...values) - mean(values, weights),
};

function foldMetric(key: string, values: number[], weights: number[]): [string, number][] {
  const reduction = key.slice(key.lastIndexOf(':') + 1);
  if (reduction === 'unique')
    return values.map((value, index) => [index === 0 ? key : `${key}_${index}`, value]);
  const fold = Object.hasOwn(FOLDS, reduction) ? FOLDS[reduction] : undefined;
  return fold ? [[key, fold(values, weights)]] : [];
}

/** Metrics that every part has; those that fold in no known way are dropped. */
function foldMetrics(results: readonly ForwardBackwardOutput[]): Record<string, number> {
  const weights = results.map((result) => result.loss_fn_outputs.length);
  const shared = Object.keys(results[0]?.metrics ?? {}).filter((key) =>
    results.every((result) => Object.hasOwn(result.metrics, key)),
  );
  return Object.fromEntries(
    shared.flatMap((key) =>
      foldMetric(
        key,
        results.map((result) => result.metrics[key]!),
        weights,
      ),
    ),
  );
}

/** Outputs in order, metrics folded. */
export function foldResults(results: readonly ForwardBackwardOutput[]): ForwardBackwardOutput {
  return {
    loss_fn_output_type: results[0]?.loss_fn_output_type ?? '',
    loss_fn_outputs: results.flatMap((result) => result.loss_fn_outputs),
    metrics: foldMetrics(results),
  };
}

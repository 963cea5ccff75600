/** Folds the metrics of a call's parts by the suffix of their keys, as the SDK folds those of its requests. */

/** Metrics of some of a call's datums; keys are `name:reduction`. */
export interface MetricsPart {
  values: Record<string, number>;
  datums: number;
}

type Fold = (values: number[], weights: number[]) => number;

const weightedMean: Fold = (values, weights) => {
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  return values.reduce((sum, value, i) => sum + value * weights[i]!, 0) / total;
};

const FOLDS: Record<string, Fold> = {
  sum: (values) => values.reduce((sum, value) => sum + value, 0),
  min: (values) => Math.min(...values),
  max: (values) => Math.max(...values),
  mean: weightedMean,
  slack: (values, weights) => Math.max(...values) - weightedMean(values, weights),
  hash2: (values) =>
    Number(
      BigInt.asUintN(
        64,
        values.reduce((sum, value) => sum + BigInt(Math.trunc(value)), 0n),
      ),
    ),
};

/**
 * Sum, minimum, maximum, mean weighted by datums, slack (maximum less mean), hash2 (sum modulo 2⁶⁴); `unique` keeps every
 * part's value, under `key`, `key_1`, `key_2`. Keys that a part lacks, or whose suffix is none of these, are dropped.
 */
export function foldMetrics(parts: MetricsPart[]): Record<string, number> {
  const folded: Record<string, number> = {};
  const weights = parts.map(({ datums }) => datums);
  for (const key of Object.keys(parts[0]?.values ?? {})) {
    const values = parts.map((part) => part.values[key]);
    if (!values.every((value) => value !== undefined)) continue;
    const reduction = key.slice(key.indexOf(':') + 1);
    if (reduction === 'unique') {
      values.forEach((value, i) => {
        folded[i === 0 ? key : `${key}_${i}`] = value;
      });
    } else if (FOLDS[reduction]) folded[key] = FOLDS[reduction](values, weights);
  }
  return folded;
}

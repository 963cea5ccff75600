import type { ConsoleMetrics } from '@anneal/types/console';

const names: Record<string, string> = {
  'loss:mean': 'Loss per token',
  'loss:sum': 'Loss, summed',
  'grad_norm:l2': 'Gradient norm',
  learning_rate: 'Learning rate',
  tokens_per_second: 'Tokens per second',
  step_seconds: 'Seconds per step',
  'tokens:sum': 'Tokens per step',
  'sequences:sum': 'Sequences per step',
};

/** First what people look at first; unknown ones, a loss's own, right after the loss. */
const order = [
  'loss:mean',
  '*',
  'grad_norm:l2',
  'learning_rate',
  'tokens_per_second',
  'step_seconds',
  'tokens:sum',
  'sequences:sum',
  'loss:sum',
];

/** What seldom changes, or repeats another curve. */
export function isMinor(key: string): boolean {
  return ['tokens:sum', 'sequences:sum', 'loss:sum'].includes(key);
}

export function metricName(key: string): string {
  const known = names[key];
  if (known) return known;
  const [name = key, reduction] = key.split(':');
  const words = name.replaceAll('_', ' ');
  const title = words.charAt(0).toUpperCase() + words.slice(1);
  return reduction === undefined || reduction === 'mean' ? title : `${title} (${reduction})`;
}

export function sortMetrics(keys: Iterable<string>): string[] {
  const rank = (key: string): number => (order.includes(key) ? order.indexOf(key) : order.indexOf('*'));
  return [...new Set(keys)].sort((a, b) => rank(a) - rank(b) || a.localeCompare(b));
}

/**
 * Exponential moving average whose beginning is not drawn towards zero (Kingma and Ba, arXiv 1412.6980, section 3). Gaps
 * stay gaps.
 *
 * @param weight 0 leaves the values as they are; towards 1 they are smoother.
 */
export function smooth(values: readonly (number | null)[], weight: number): (number | null)[] {
  if (weight <= 0) return [...values];
  let average = 0;
  let seen = 0;
  return values.map((value) => {
    if (value === null) return null;
    seen += 1;
    average = weight * average + (1 - weight) * value;
    return average / (1 - weight ** seen);
  });
}

/** Adds the steps that are not there yet. */
export function appendMetrics(known: ConsoleMetrics, more: ConsoleMetrics): ConsoleMetrics {
  const last = known.steps.at(-1) ?? -1;
  const fresh = more.steps.flatMap((step, at) => (step > last ? [at] : []));
  if (fresh.length === 0) return known;
  const length = known.steps.length;
  const keys = new Set([...Object.keys(known.series), ...Object.keys(more.series)]);
  const series = [...keys].map((key): [string, (number | null)[]] => {
    const before = known.series[key] ?? Array<null>(length).fill(null);
    return [key, [...before, ...fresh.map((at) => more.series[key]?.[at] ?? null)]];
  });
  return {
    run_id: known.run_id,
    steps: [...known.steps, ...fresh.map((at) => more.steps[at] ?? 0)],
    at: [...known.at, ...fresh.map((at) => more.at[at] ?? 0)],
    series: Object.fromEntries(series),
  };
}

import type { StepMetrics } from '@anneal/store';
import type { ConsoleMetrics } from '@anneal/types/console';

/** Steps as columns, which are shorter and what charts take. */
export function metricsOf(runId: string, steps: readonly StepMetrics[]): ConsoleMetrics {
  const names = [...new Set(steps.flatMap(({ metrics }) => Object.keys(metrics)))];
  return {
    run_id: runId,
    steps: steps.map(({ step }) => step),
    at: steps.map(({ at }) => at),
    series: Object.fromEntries(
      names.map((name) => [name, steps.map(({ metrics }) => rounded(metrics[name]))]),
    ),
  };
}

/** Six digits are more than a chart shows. */
function rounded(value: number | undefined): number | null {
  return value === undefined ? null : Number(value.toPrecision(6));
}

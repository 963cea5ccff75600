import type { FutureRow, StepMetrics } from '@anneal/store';
import type { ConsoleCall, ConsoleMetrics } from '@anneal/types/console';

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

/** A request as the console tells of it. One whose result was deleted is as it ended. */
export function callOf(row: FutureRow): ConsoleCall {
  const { detail, error, finishedAt } = row;
  return {
    request_id: row.requestId,
    seq: row.seq?.toString() ?? null,
    kind: row.kind,
    state: finishedAt === null ? 'pending' : error === null ? 'done' : 'failed',
    submitted_at: row.createdAt,
    started_at: row.startedAt,
    ended_at: finishedAt,
    tokens: detail?.tokens ?? null,
    sequences: detail?.sequences ?? null,
    loss_fn: detail?.lossFn ?? null,
    metrics: detail?.metrics ?? {},
    error,
  };
}

/** Six digits are more than a chart shows. */
function rounded(value: number | undefined): number | null {
  return value === undefined ? null : Number(value.toPrecision(6));
}

import type { ConsoleMetrics, ConsoleRun } from '@anneal/types/console';
import { useQueries, useQuery } from '@tanstack/react-query';
import uPlot from 'uplot';
import { useSearchParams } from 'wouter';
import { metricsQuery, runsQuery } from '../api/queries.ts';
import { Chart } from '../components/chart.tsx';
import { type Line, PALETTE } from '../components/chart-options.ts';
import { Page } from '../components/page.tsx';
import { RunTable } from '../components/run-table.tsx';
import { Empty, Failure, Waiting } from '../components/states.tsx';
import { metricName, smooth, sortMetrics } from '../lib/metrics.ts';
import { runLabel } from '../lib/runs.ts';
import { FirstRun } from './overview.tsx';

/** Without a choice of one's own, the newest runs with steps. */
const SHOWN_AT_FIRST = 3;

/** All runs, and the curves of some of them in one chart. The choice is in the address, which can be shared. */
export function RunsPage() {
  const { data, error } = useQuery(runsQuery);
  if (error || !data || data.runs.length === 0) {
    return (
      <Page title="Runs">
        {error ? <Failure error={error} /> : data ? <FirstRun /> : <Waiting height={420} />}
      </Page>
    );
  }
  return <Compare runs={data.runs} />;
}

function Compare({ runs }: { runs: ConsoleRun[] }) {
  const [params, setParams] = useSearchParams();
  const set = (name: string, value: string | null): void =>
    setParams(
      (before) => {
        const next = new URLSearchParams(before);
        if (value === null) next.delete(name);
        else next.set(name, value);
        return next;
      },
      { replace: true },
    );
  const chosen = params.get('runs');
  const withSteps = runs.filter(({ step }) => step !== null);
  const ids =
    chosen === null
      ? withSteps.slice(0, SHOWN_AT_FIRST).map(({ run_id }) => run_id)
      : chosen.split(' ').filter((id) => runs.some(({ run_id }) => run_id === id));
  const select = (id: string, on: boolean): void => {
    const others = ids.filter((other) => other !== id);
    set('runs', (on ? [...others, id].slice(-PALETTE) : others).join(' '));
  };
  const selected = new Map(ids.map((id, at) => [id, at]));

  const metrics = useQueries({
    queries: ids.map(metricsQuery),
    combine: (results) => ({
      data: results.flatMap(({ data }) => (data ? [data] : [])),
      error: results.find(({ error }) => error)?.error,
    }),
  });
  const names = sortMetrics(metrics.data.flatMap(({ series }) => Object.keys(series)));
  const metric = params.get('metric') ?? names[0] ?? 'loss:mean';
  const weight = Number(params.get('smooth') ?? 0);
  const isLog = params.has('log');
  const byTime = params.get('x') === 'time';
  const joined = join(metrics.data, ids, runs, { metric, weight, byTime });

  return (
    <Page title="Runs">
      <div className="toolbar">
        <label>
          Metric
          <select value={metric} onChange={(event) => set('metric', event.target.value)}>
            {(names.length > 0 ? names : [metric]).map((name) => (
              <option key={name} value={name}>
                {metricName(name)}
              </option>
            ))}
          </select>
        </label>
        <label>
          Smoothing
          <input
            type="range"
            min={0}
            max={0.98}
            step={0.02}
            value={weight}
            onChange={(event) => set('smooth', event.target.value === '0' ? null : event.target.value)}
          />
          <output className="smooth-value">{weight.toFixed(2)}</output>
        </label>
        <fieldset className="segments" aria-label="Horizontal axis">
          <button type="button" aria-pressed={!byTime} onClick={() => set('x', null)}>
            Steps
          </button>
          <button type="button" aria-pressed={byTime} onClick={() => set('x', 'time')}>
            Minutes
          </button>
        </fieldset>
        <label className="inline">
          <input
            type="checkbox"
            checked={isLog}
            onChange={(event) => set('log', event.target.checked ? '' : null)}
          />
          Log scale
        </label>
      </div>
      {metrics.error && <Failure error={metrics.error} />}
      <section className="section chart-section" aria-label={metricName(metric)}>
        {ids.length === 0 ? (
          <div className="chart-none">
            <Empty title={withSteps.length === 0 ? 'No steps yet' : 'No run is selected'}>
              {withSteps.length === 0
                ? 'The curve begins with the first optim_step.'
                : 'Tick runs below to draw their curves over one another.'}
            </Empty>
          </div>
        ) : (
          <Chart
            label={`${metricName(metric)} of ${ids.length} runs`}
            x={joined.x}
            lines={joined.lines}
            height={320}
            look={{ x: byTime ? 'minutes' : 'step', log: isLog }}
          />
        )}
      </section>
      <RunTable runs={runs} selected={selected} onSelect={select} />
    </Page>
  );
}

/** The runs' curves over one axis: steps, or minutes since each run's first step. */
function join(
  all: ConsoleMetrics[],
  ids: string[],
  runs: ConsoleRun[],
  { metric, weight, byTime }: { metric: string; weight: number; byTime: boolean },
): { x: number[]; lines: Line[] } {
  const shown = all.filter(({ run_id, series }) => ids.includes(run_id) && series[metric]);
  const tables = shown.map((metrics) => {
    const raw = metrics.series[metric] ?? [];
    const x = byTime ? metrics.at.map((at) => (at - (metrics.at[0] ?? 0)) / 60_000) : metrics.steps;
    return [x, smooth(raw, weight), ...(weight > 0 ? [raw] : [])] as uPlot.AlignedData;
  });
  const [x, ...values] = tables.length > 0 ? uPlot.join(tables) : [[]];
  const each = weight > 0 ? 2 : 1;
  const taken = new Set<string>();
  const lines = shown.map((metrics, at): Line => {
    const run = runs.find(({ run_id }) => run_id === metrics.run_id);
    const name = run ? runLabel(run) : metrics.run_id.slice(0, 8);
    const label = taken.has(name) ? `${name} (${metrics.run_id.slice(0, 4)})` : name;
    taken.add(label);
    const [main = [], raw] = values.slice(at * each, at * each + each) as (number | null)[][];
    return { label, color: ids.indexOf(metrics.run_id), values: main, ...(raw ? { raw } : {}) };
  });
  return { x: [...(x as number[])], lines };
}

import type { ConsoleMetrics, ConsoleRunDetail } from '@anneal/types/console';
import { useQuery } from '@tanstack/react-query';
import { useState } from 'react';
import { Link } from 'wouter';
import { metricsQuery, runQuery, runsQuery } from '../api/queries.ts';
import { Chart } from '../components/chart.tsx';
import { CheckpointTable } from '../components/checkpoint-table.tsx';
import { CopyButton } from '../components/copy-button.tsx';
import { Page, Section } from '../components/page.tsx';
import { Empty, Failure, Waiting } from '../components/states.tsx';
import { formatAge, formatMetric, formatTime, plural } from '../lib/format.ts';
import { isMinor, metricName, smooth, sortMetrics } from '../lib/metrics.ts';
import { useNow } from '../lib/now.ts';
import { runLabel } from '../lib/runs.ts';

/** One run: its curves, what it is made of, and its checkpoints. */
export function RunPage({ id }: { id: string }) {
  const { data, error } = useQuery(runQuery(id));
  const { data: all } = useQuery(runsQuery);
  const { isPending } = useQuery(metricsQuery(id));
  if (error || !data || isPending) {
    return (
      <Page title="Run">
        {error ? <Failure error={error} /> : <Waiting height={480} />}
        {error && <Link href="/runs">All runs</Link>}
      </Page>
    );
  }
  // The list hears of each step; the detail is asked for now and then.
  const run = { ...data.run, ...all?.runs.find(({ run_id }) => run_id === id) };
  return (
    <Page
      title={runLabel(run)}
      actions={<Link href={`/samples/${encodeURIComponent(run.session_id)}`}>Samples of its session</Link>}
    >
      <p className="run-line">
        <span className={`state state-${run.state}`}>{run.state}</span>
        <span className="with-icon">
          <code>{run.run_id}</code>
          <CopyButton text={run.run_id} label="Copy the run's id" />
        </span>
        <span>{run.base_model}</span>
        {run.corrupted && <span className="tag tag-bad">a checkpoint of it is damaged</span>}
      </p>
      <Curves id={id} />
      <Section title="Checkpoints">
        {data.checkpoints.length === 0 ? (
          <Empty title="No checkpoints yet">
            <code>save_state("name")</code> keeps weights and optimizer,{' '}
            <code>save_weights_for_sampler("name")</code> the adapter alone.
          </Empty>
        ) : (
          <CheckpointTable checkpoints={data.checkpoints} runId={id} baseModel={run.base_model} />
        )}
      </Section>
      <Facts detail={{ ...data, run }} />
    </Page>
  );
}

function Curves({ id }: { id: string }) {
  const { data, error } = useQuery(metricsQuery(id));
  const [weight, setWeight] = useState(0);
  if (error) return <Failure error={error} />;
  if (!data) return null;
  const keys = sortMetrics(Object.keys(data.series));
  const minor = keys.filter(isMinor);
  if (data.steps.length === 0) {
    return (
      <section className="section">
        <Empty title="No steps yet">The curves begin with the first optim_step.</Empty>
      </section>
    );
  }
  return (
    <>
      <div className="toolbar">
        <label>
          Smoothing
          <input
            type="range"
            min={0}
            max={0.98}
            step={0.02}
            value={weight}
            onChange={(event) => setWeight(Number(event.target.value))}
          />
          <output className="smooth-value">{weight.toFixed(2)}</output>
        </label>
      </div>
      <Grid metrics={data} keys={keys.filter((key) => !isMinor(key))} weight={weight} />
      <details className="more">
        <summary>{plural(minor.length, 'more curve')}</summary>
        <Grid metrics={data} keys={minor} weight={weight} />
      </details>
    </>
  );
}

function Grid({ metrics: data, keys, weight }: { metrics: ConsoleMetrics; keys: string[]; weight: number }) {
  return (
    <div className="curves">
      {keys.map((key) => {
        const values = data.series[key] ?? [];
        const name = metricName(key);
        const line = {
          label: name,
          color: 0,
          values: smooth(values, weight),
          ...(weight > 0 ? { raw: values } : {}),
        };
        return (
          <section key={key} className="section" aria-label={name}>
            <Chart label={name} x={data.steps} lines={[line]} height={150} />
          </section>
        );
      })}
    </div>
  );
}

function Facts({ detail: { run, settings } }: { detail: ConsoleRunDetail }) {
  const now = useNow();
  const parts = {
    attention: run.lora.train_attn,
    MLP: run.lora.train_mlp,
    unembedding: run.lora.train_unembed,
  };
  const covered = Object.entries(parts).flatMap(([name, on]) => (on ? [name] : []));
  const groups: [string, [string, string][]][] = [
    [
      'LoRA',
      [
        ['Rank', String(run.lora.rank)],
        ['Alpha', formatMetric(run.lora.alpha)],
        ['Trained', covered.join(', ')],
        ['Seed', run.lora.seed ?? '–'],
      ],
    ],
    [
      'Hyper-parameters of the latest step',
      Object.entries(settings).map(([name, value]) => [
        name.replaceAll('_', ' '),
        typeof value === 'number' ? formatMetric(value) : value,
      ]),
    ],
    [
      'Run',
      [
        ['Begun', formatTime(run.created_at)],
        ['Last request', formatAge(run.last_request_at, now)],
        ['Session', run.session_name ?? run.session_id],
        ...Object.entries(run.user_metadata ?? {}),
      ],
    ],
  ];
  return (
    <div className="facts">
      {groups.map(([title, entries]) => (
        <Section key={title} title={title}>
          {entries.length === 0 ? (
            <Empty title="Known after the first step" />
          ) : (
            <dl className="pairs">
              {entries.map(([name, value]) => (
                <div key={name}>
                  <dt>{name}</dt>
                  <dd>{value}</dd>
                </div>
              ))}
            </dl>
          )}
        </Section>
      ))}
    </div>
  );
}

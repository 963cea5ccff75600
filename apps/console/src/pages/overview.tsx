import type { ConsoleOverview, ConsoleSession } from '@anneal/types/console';
import { useQuery } from '@tanstack/react-query';
import { Link } from 'wouter';
import { historyQuery, overviewQuery, runsQuery, sessionsQuery } from '../api/queries.ts';
import { Chart } from '../components/chart.tsx';
import { Page, Section } from '../components/page.tsx';
import { RunTable } from '../components/run-table.tsx';
import { Empty, Failure, Waiting } from '../components/states.tsx';
import { TableFrame } from '../components/table-frame.tsx';
import {
  formatAge,
  formatBytes,
  formatCount,
  formatDuration,
  formatRate,
  formatTime,
  plural,
} from '../lib/format.ts';
import { useNow } from '../lib/now.ts';

const LATEST_RUNS = 6;

/** How the server is, and what happens on it. */
export function OverviewPage() {
  const { data: overview, error } = useQuery(overviewQuery);
  // All parts appear at once: one that came later would push the others down.
  const parts = [useQuery(historyQuery), useQuery(runsQuery), useQuery(sessionsQuery)];
  if (error) {
    return (
      <Page title="Overview">
        <Failure error={error} />
      </Page>
    );
  }
  if (!overview || parts.some(({ isPending }) => isPending)) {
    return (
      <Page title="Overview">
        <Waiting height={600} />
      </Page>
    );
  }
  return (
    <Page title="Overview">
      <Figures overview={overview} />
      <div className="columns">
        <Throughput />
        <Memory total={overview.device.total_memory_bytes} />
      </div>
      <LatestRuns />
      <Sessions />
      <BaseModels overview={overview} />
    </Page>
  );
}

function Figures({ overview }: { overview: ConsoleOverview }) {
  const now = useNow();
  const { device, queue } = overview;
  const isBusy = queue.training_calls + queue.active_sequences > 0;
  const figures = [
    {
      name: 'Device',
      value: device.name.toUpperCase(),
      note: `${device.precision}, ${device.cpus} cores, up ${formatDuration(now - overview.started_at)}`,
    },
    {
      name: 'Memory',
      value: formatBytes(device.memory_bytes),
      note: `${plural(overview.models_in_memory, 'model')} in training, ${plural(overview.samplers_in_memory, 'sampler')} open`,
    },
    {
      name: 'Queue',
      value: isBusy ? `${queue.training_calls} · ${queue.active_sequences}` : 'Idle',
      note: isBusy
        ? `training calls · texts being sampled${queue.waiting_sequences > 0 ? `, ${queue.waiting_sequences} waiting` : ''}`
        : 'nothing runs or waits',
    },
    {
      name: 'Training',
      value: `${formatRate(overview.trained_tokens_per_second)}`,
      unit: 'tok/s',
      note: `${formatCount(overview.trained_tokens)} tokens since the start`,
    },
    {
      name: 'Sampling',
      value: `${formatRate(overview.sampled_tokens_per_second)}`,
      unit: 'tok/s',
      note: `${formatCount(overview.sampled_tokens)} tokens since the start`,
    },
  ];
  return (
    <dl className="figures">
      {figures.map(({ name, value, unit, note }) => (
        <div key={name} className="figure">
          <dt>{name}</dt>
          <dd className="figure-value">
            {value}
            {unit && <small> {unit}</small>}
          </dd>
          <dd className="figure-note">{note}</dd>
        </div>
      ))}
    </dl>
  );
}

function useMinutes() {
  const { data } = useQuery(historyQuery);
  const end = data?.at.at(-1) ?? 0;
  return { data, minutes: data?.at.map((at) => (at - end) / 60_000) ?? [] };
}

function Throughput() {
  const { data, minutes } = useMinutes();
  const lines = [
    { label: 'Training', color: 0, values: data?.trained_tokens_per_second ?? [] },
    { label: 'Sampling', color: 1, values: data?.sampled_tokens_per_second ?? [] },
  ];
  return (
    <Section title="Throughput" note="tokens per second, last 15 minutes">
      <Chart
        label="Tokens per second, last 15 minutes"
        x={minutes}
        lines={lines}
        height={170}
        look={{ x: 'ago', fromZero: true, format: formatRate }}
      />
    </Section>
  );
}

function Memory({ total }: { total: number }) {
  const { data, minutes } = useMinutes();
  const lines = [{ label: 'Server process', color: 2, values: data?.memory_bytes ?? [] }];
  return (
    <Section title="Memory" note={`of ${formatBytes(total)} in the machine`}>
      <Chart
        label="Memory of the server, last 15 minutes"
        x={minutes}
        lines={lines}
        height={170}
        look={{ x: 'ago', fromZero: true, format: formatBytes }}
      />
    </Section>
  );
}

function LatestRuns() {
  const { data, error } = useQuery(runsQuery);
  return (
    <Section
      title="Latest runs"
      note={data && data.total > LATEST_RUNS ? <Link href="/runs">All {data.total} runs</Link> : null}
    >
      {error ? (
        <Failure error={error} />
      ) : !data ? null : data.runs.length === 0 ? (
        <FirstRun />
      ) : (
        <RunTable runs={data.runs.slice(0, LATEST_RUNS)} />
      )}
    </Section>
  );
}

/** How to get a first run. */
export function FirstRun() {
  return (
    <Empty title="No training runs yet">
      <p>Start one with the Tinker SDK; its curve appears here with the first step:</p>
      <pre>{`pip install tinker
export TINKER_BASE_URL=${location.origin} TINKER_API_KEY=tml-...
python examples/sft.py`}</pre>
    </Empty>
  );
}

function Sessions() {
  const { data, error } = useQuery(sessionsQuery);
  const active = data?.sessions.filter(({ state }) => state !== 'finished') ?? [];
  return (
    <Section
      title="Active sessions"
      note={data ? `${active.filter(({ state }) => state === 'active').length} active` : null}
    >
      {error ? (
        <Failure error={error} />
      ) : !data ? null : active.length === 0 ? (
        <Empty title="Nobody is connected with your key">
          A session begins when a client makes a ServiceClient.
        </Empty>
      ) : (
        <SessionTable sessions={active.slice(0, 10)} />
      )}
    </Section>
  );
}

function SessionTable({ sessions }: { sessions: ConsoleSession[] }) {
  const now = useNow();
  return (
    <TableFrame label="Active sessions">
      <thead>
        <tr>
          <th>Session</th>
          <th>State</th>
          <th className="num">Runs</th>
          <th>Client</th>
          <th>Begun</th>
          <th>Last heard</th>
        </tr>
      </thead>
      <tbody>
        {sessions.map((session) => (
          <tr key={session.session_id}>
            <td>
              {session.display_name ?? (
                <code title={session.session_id}>{session.session_id.slice(0, 8)}</code>
              )}
              {session.tags.map((tag) => (
                <span key={tag} className="tag">
                  {tag}
                </span>
              ))}
            </td>
            <td>
              <span className={`state state-${session.state}`}>{session.state}</span>
            </td>
            <td className="num">{session.runs}</td>
            <td>tinker {session.sdk_version}</td>
            <td title={formatTime(session.created_at)}>{formatAge(session.created_at, now)}</td>
            <td title={formatTime(session.last_heartbeat_at)}>{formatAge(session.last_heartbeat_at, now)}</td>
          </tr>
        ))}
      </tbody>
    </TableFrame>
  );
}

const MEMORY_STATES = { unloaded: 'when it is needed', loading: 'loading', loaded: 'yes' };

function BaseModels({ overview }: { overview: ConsoleOverview }) {
  return (
    <Section title="Base models">
      <TableFrame label="Base models">
        <thead>
          <tr>
            <th>Name</th>
            <th>Architecture</th>
            <th className="num">Layers</th>
            <th className="num">Context</th>
            <th className="num">Weights</th>
            <th>In memory</th>
          </tr>
        </thead>
        <tbody>
          {overview.base_models.map((model) => (
            <tr key={model.name}>
              <td>{model.name}</td>
              <td>{model.architecture}</td>
              <td className="num">{model.layers}</td>
              <td className="num">{formatCount(model.context_length)}</td>
              <td className="num">{formatBytes(model.weight_bytes)}</td>
              <td>{MEMORY_STATES[model.state]}</td>
            </tr>
          ))}
        </tbody>
      </TableFrame>
    </Section>
  );
}

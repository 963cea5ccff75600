import type { ConsoleKeys, ConsoleUsage } from '@anneal/types/console';
import { useQuery, useQueryClient } from '@tanstack/react-query';
import { useMemo, useState } from 'react';
import { accountQuery, keysQuery, usageQuery } from '../api/queries.ts';
import { send } from '../api/request.ts';
import { Chart } from '../components/chart.tsx';
import { Dialog } from '../components/dialog.tsx';
import { Page, Section } from '../components/page.tsx';
import { Failure, Waiting } from '../components/states.tsx';
import { TableFrame } from '../components/table-frame.tsx';
import { formatBytes, formatCount, formatTime } from '../lib/format.ts';

const DAYS = 30;

/** Keys and usage of the key's owner. */
export function AccountPage() {
  const { data: account } = useQuery(accountQuery);
  const { data: usage, error } = useQuery(usageQuery);
  const { data: keys, error: keysError, isPending } = useQuery(keysQuery);
  if (!account || isPending || (!usage && !error)) {
    return (
      <Page title="Account">
        <Waiting height={600} />
      </Page>
    );
  }
  return (
    <Page title="Account">
      <p className="muted page-note">
        Everything of the owner <b>{account.owner}</b>. Days are those of UTC.
      </p>
      {error ? <Failure error={error} /> : usage && <Usage usage={usage} />}
      <Section title="API keys">
        {keysError ? (
          <Failure error={keysError} />
        ) : keys ? (
          <Keys keys={keys.keys} />
        ) : (
          <Waiting height={90} />
        )}
        <p className="muted">
          New keys are made on the server: <code>anneal keys create --owner {account.owner}</code>
        </p>
      </Section>
    </Page>
  );
}

function Usage({ usage }: { usage: ConsoleUsage }) {
  const { x, trained, sampled } = useMemo(() => byDay(usage), [usage]);
  const sum = (read: (day: ConsoleUsage['days'][number]) => number): number =>
    usage.days.reduce((total, day) => total + read(day), 0);
  const figures: [string, string, string][] = [
    ['Trained', formatCount(sum((day) => day.trained_tokens)), `tokens in ${DAYS} days`],
    ['Steps', formatCount(sum((day) => day.steps)), `optimizer steps in ${DAYS} days`],
    ['Sampled', formatCount(sum((day) => day.sampled_tokens)), `tokens in ${DAYS} days`],
    ['Prompts', formatCount(sum((day) => day.prompt_tokens)), `tokens read in ${DAYS} days`],
    [
      'Checkpoints',
      formatBytes(usage.checkpoint_bytes),
      `in ${usage.checkpoints} checkpoints of ${usage.runs} runs`,
    ],
  ];
  const look = { x: 'time', kind: 'bar', fromZero: true, format: formatCount } as const;
  return (
    <>
      <dl className="figures">
        {figures.map(([name, value, note]) => (
          <div key={name} className="figure">
            <dt>{name}</dt>
            <dd className="figure-value">{value}</dd>
            <dd className="figure-note">{note}</dd>
          </div>
        ))}
      </dl>
      <div className="columns">
        <Section title="Trained" note="tokens per day">
          <Chart
            label="Trained tokens per day"
            x={x}
            lines={[{ label: 'Trained tokens', color: 0, values: trained }]}
            height={170}
            look={look}
          />
        </Section>
        <Section title="Sampled" note="tokens per day">
          <Chart
            label="Sampled tokens per day"
            x={x}
            lines={[{ label: 'Sampled tokens', color: 1, values: sampled }]}
            height={170}
            look={look}
          />
        </Section>
      </div>
    </>
  );
}

/** One place for each of the last days, used or not. */
function byDay(usage: ConsoleUsage) {
  const known = new Map(usage.days.map((day) => [day.day, day]));
  const today = Math.floor(Date.now() / 86_400_000) * 86_400;
  const x = Array.from({ length: DAYS }, (_, at) => today - (DAYS - 1 - at) * 86_400);
  const days = x.map((time) => known.get(new Date(time * 1000).toISOString().slice(0, 10)));
  return {
    x,
    trained: days.map((day) => day?.trained_tokens ?? 0),
    sampled: days.map((day) => day?.sampled_tokens ?? 0),
  };
}

function Keys({ keys }: { keys: ConsoleKeys['keys'] }) {
  const client = useQueryClient();
  const [asked, setAsked] = useState<ConsoleKeys['keys'][number]>();
  return (
    <>
      <TableFrame label="API keys">
        <thead>
          <tr>
            <th>Label</th>
            <th>Made</th>
            <th>State</th>
            <th>
              <span className="hidden">Actions</span>
            </th>
          </tr>
        </thead>
        <tbody>
          {keys.map((key) => (
            <tr key={key.key_id}>
              <td>
                {key.label || <span className="muted">no label</span>}
                {key.current && <span className="tag">this browser</span>}
              </td>
              <td>{formatTime(key.created_at)}</td>
              <td>{key.revoked_at === null ? 'valid' : `revoked ${formatTime(key.revoked_at)}`}</td>
              <td className="row-actions">
                {key.revoked_at === null && !key.current && (
                  <button type="button" onClick={() => setAsked(key)}>
                    Revoke
                  </button>
                )}
              </td>
            </tr>
          ))}
        </tbody>
      </TableFrame>
      {asked && (
        <Dialog
          title={`Revoke "${asked.label}"?`}
          action="Revoke"
          danger
          onClose={() => setAsked(undefined)}
          onAction={async () => {
            await send(`/console/api/keys/${encodeURIComponent(asked.key_id)}`, { method: 'DELETE' });
            await client.invalidateQueries({ queryKey: ['keys'] });
          }}
        >
          <p>Programs that use this key get an error from the next request on. This cannot be undone.</p>
        </Dialog>
      )}
    </>
  );
}

import type { ConsoleRollout, ConsoleRolloutDetail } from '@anneal/types/console';
import { useQuery, useQueryClient } from '@tanstack/react-query';
import { ArrowLeft } from 'lucide-react';
import { useState } from 'react';
import { Link, useLocation } from 'wouter';
import { accountQuery, rolloutQuery, rolloutSessionsQuery, rolloutsQuery } from '../api/queries.ts';
import { send } from '../api/request.ts';
import { Dialog } from '../components/dialog.tsx';
import { Page } from '../components/page.tsx';
import { Empty, Failure, Waiting } from '../components/states.tsx';
import { TintScale, Tokens } from '../components/tokens.tsx';
import { formatAge, formatMetric, formatTime, shortModel } from '../lib/format.ts';
import { useNow } from '../lib/now.ts';

const pathOf = (session: string, rollout?: string): string =>
  `/samples/${encodeURIComponent(session)}${rollout ? `/${encodeURIComponent(rollout)}` : ''}`;

/** What was sampled in a session: a list, and one of them token by token. */
export function SamplesPage({
  session,
  rollout,
}: {
  session?: string | undefined;
  rollout?: string | undefined;
}) {
  const [, navigate] = useLocation();
  const { data: sessions, error } = useQuery(rolloutSessionsQuery);
  const { data: account } = useQuery(accountQuery);
  const [isDeleting, setDeleting] = useState(false);
  const shown = session ?? sessions?.sessions[0]?.session_id;
  if (error || !sessions) {
    return <Page title="Samples">{error ? <Failure error={error} /> : <Waiting height={420} />}</Page>;
  }
  if (shown === undefined) {
    return (
      <Page title="Samples">
        {account?.records_rollouts === false ? (
          <Empty title="Samples are not recorded on this server">
            Start it with <code>--rollouts-per-session 200</code> to keep the newest ones of each session.
          </Empty>
        ) : (
          <Empty title="No samples yet">
            What a sampling client draws in a session appears here, newest first. Chats of the playground are
            not kept.
          </Empty>
        )}
      </Page>
    );
  }
  const isKnown = sessions.sessions.some(({ session_id }) => session_id === shown);
  return (
    <Page title="Samples">
      <div className="toolbar">
        <label>
          Session
          <select value={shown} onChange={(event) => navigate(pathOf(event.target.value))}>
            {!isKnown && <option value={shown}>{shown.slice(0, 8)} (no samples)</option>}
            {sessions.sessions.map(({ session_id: id, display_name: name, rollouts }) => (
              <option key={id} value={id}>
                {name ?? id.slice(0, 8)} ({rollouts})
              </option>
            ))}
          </select>
        </label>
        <TintScale />
        {isKnown && (
          <button type="button" className="push" onClick={() => setDeleting(true)}>
            Delete these samples
          </button>
        )}
      </div>
      <div className={rollout ? 'split split-open' : 'split'}>
        <RolloutList session={shown} current={rollout} />
        <div className="split-detail">
          {rollout ? (
            <>
              <Link href={pathOf(shown)} className="back">
                <ArrowLeft size={14} aria-hidden /> All samples
              </Link>
              <Detail key={rollout} id={rollout} />
            </>
          ) : (
            <Empty title="Choose a sample">
              Its prompt and texts appear here, with the probability of each token.
            </Empty>
          )}
        </div>
      </div>
      {isDeleting && <DeleteSamples session={shown} onClose={() => setDeleting(false)} />}
    </Page>
  );
}

function DeleteSamples({ session, onClose }: { session: string; onClose: () => void }) {
  const client = useQueryClient();
  const [, navigate] = useLocation();
  return (
    <Dialog
      title="Delete the recorded samples of this session?"
      action="Delete"
      danger
      onClose={onClose}
      onAction={async () => {
        await send(`/console/api/sessions/${encodeURIComponent(session)}/rollouts`, { method: 'DELETE' });
        await client.invalidateQueries({ queryKey: ['rollout-sessions'] });
        navigate('/samples');
      }}
    >
      <p>The session and its runs stay as they are; only what this page shows goes.</p>
    </Dialog>
  );
}

function RolloutList({ session, current }: { session: string; current: string | undefined }) {
  const { data, error } = useQuery(rolloutsQuery(session));
  const now = useNow();
  if (error) return <Failure error={error} />;
  if (!data) return <Waiting height={420} />;
  if (data.rollouts.length === 0) return <Empty title="No samples in this session" />;
  return (
    <ol className="rollouts">
      {data.rollouts.map((rollout) => (
        <li key={rollout.rollout_id}>
          <Link
            href={pathOf(session, rollout.rollout_id)}
            aria-current={rollout.rollout_id === current ? 'true' : undefined}
          >
            <span className="rollout-head">
              <span>{formatAge(rollout.at, now)}</span>
              <span>{summaryOf(rollout)}</span>
            </span>
            <span className="rollout-prompt">{rollout.prompt_preview}</span>
            <span className="rollout-text">{rollout.texts[0]?.preview}</span>
          </Link>
        </li>
      ))}
    </ol>
  );
}

function summaryOf({ texts }: ConsoleRollout): string {
  const advantages = texts.flatMap(({ advantage }) => (advantage === null ? [] : [advantage]));
  const spread =
    advantages.length > 0
      ? `, advantage ${signed(Math.min(...advantages))} to ${signed(Math.max(...advantages))}`
      : '';
  return `${texts.length} ${texts.length === 1 ? 'text' : 'texts'}${spread}`;
}

function Detail({ id }: { id: string }) {
  const { data, error } = useQuery(rolloutQuery(id));
  if (error) return <Failure error={error} />;
  if (!data) return <Waiting height={420} />;
  return (
    <article className="rollout-detail">
      <p className="run-line">
        <span title={data.model_path ?? data.base_model}>
          {data.model_path ?? shortModel(data.base_model)}
        </span>
        <span className="muted">{formatTime(data.at)}</span>
        <span className="muted">{paramsOf(data)}</span>
      </p>
      <h2>
        Prompt{' '}
        <small className="muted">
          {data.prompt_tokens} tokens{data.prompt_cut && ', its end is shown'}
        </small>
      </h2>
      <div className="tokens prompt">{data.prompt}</div>
      {data.texts.map((text, at) => (
        // biome-ignore lint/suspicious/noArrayIndexKey: texts of a request are numbered
        <section key={at} className="drawn" aria-label={`Text ${at + 1}`}>
          <h2>
            Text {at + 1}
            <small className="muted">
              {text.tokens} tokens{text.cut && ', its beginning is shown'},{' '}
              {text.stop_reason === 'stop' ? 'ended by itself' : 'ended by the limit'}
              {text.mean_logprob !== null && `, mean logprob ${formatMetric(text.mean_logprob)}`}
            </small>
            {text.advantage !== null && (
              <span
                className={text.advantage > 0 ? 'tag tag-good' : text.advantage < 0 ? 'tag tag-bad' : 'tag'}
              >
                advantage {signed(text.advantage)}
              </span>
            )}
          </h2>
          <Tokens tokens={text.pieces} tinted label={`Text ${at + 1}`} />
        </section>
      ))}
      {data.more_texts > 0 && (
        <p className="muted">{data.more_texts} more texts were drawn and not recorded.</p>
      )}
    </article>
  );
}

function paramsOf(rollout: ConsoleRolloutDetail): string {
  const { temperature, top_p: topP, top_k: topK, max_tokens: most } = rollout;
  return [
    `temperature ${temperature}`,
    ...(topP < 1 ? [`top-p ${topP}`] : []),
    ...(topK > 0 ? [`top-k ${topK}`] : []),
    ...(most === null ? [] : [`at most ${most} tokens`]),
  ].join(', ');
}

function signed(value: number): string {
  return `${value > 0 ? '+' : ''}${formatMetric(value)}`;
}

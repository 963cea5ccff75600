// biome-ignore-all lint/suspicious/noArrayIndexKey: the same model may stand in two columns
import { useQuery } from '@tanstack/react-query';
import { Plus, SendHorizontal, Square, X } from 'lucide-react';
import { type FormEvent, type KeyboardEvent, useRef, useState } from 'react';
import { useSearchParams } from 'wouter';
import { checkpointsQuery, overviewQuery, runsQuery } from '../api/queries.ts';
import { Page } from '../components/page.tsx';
import { Empty } from '../components/states.tsx';
import { TintScale, Tokens } from '../components/tokens.tsx';
import { alignTokens } from '../lib/align-tokens.ts';
import { type Answer, type Turn, useConversation } from '../lib/conversation.ts';
import { formatCount, formatRate, shortModel } from '../lib/format.ts';
import { runLabel } from '../lib/runs.ts';
import { type PlaygroundOptions, PlaygroundSettings, startOptions } from './playground-settings.tsx';

const MAX_COLUMNS = 4;

/** One conversation with several models side by side. */
export function PlaygroundPage() {
  const [params, setParams] = useSearchParams();
  const { data: overview } = useQuery(overviewQuery);
  const base = overview?.base_models[0]?.name;
  const asked = params.getAll('model');
  const models = (asked.length > 0 ? asked : [base, ...(base ? [] : [])]).filter(
    (model) => model !== undefined,
  );
  const columns = asked.length === 1 && base && asked[0] !== base ? [base, ...asked] : models;
  const [options, setOptions] = useState<PlaygroundOptions>(startOptions);
  const conversation = useConversation();
  const setColumns = (next: string[]): void => {
    const changed = new URLSearchParams();
    for (const model of next) changed.append('model', model);
    setParams(changed, { replace: true });
  };

  return (
    <Page
      title="Playground"
      actions={
        <button type="button" onClick={conversation.clear} disabled={conversation.turns.length === 0}>
          New conversation
        </button>
      }
    >
      <div className="playground">
        <div className="playground-main">
          <Columns columns={columns} onChange={setColumns} />
          <div className="turns">
            {conversation.turns.length === 0 ? (
              <Empty title={options.mode === 'chat' ? 'Ask something' : 'Write the beginning of a text'}>
                Every column answers for itself and remembers its own answers. Add a column to compare a
                checkpoint with the model that it came from.
              </Empty>
            ) : (
              conversation.turns.map((turn) => (
                <TurnView key={turn.id} turn={turn} columns={columns} tinted={options.tinted} />
              ))
            )}
          </div>
          <Composer
            isBusy={conversation.isBusy}
            mode={options.mode}
            onSend={(text) => void conversation.send(text, columns, options)}
            onStop={conversation.stop}
            isReady={columns.length > 0}
          />
        </div>
        <PlaygroundSettings options={options} onChange={setOptions} scale={<TintScale />} />
      </div>
    </Page>
  );
}

function Columns({ columns, onChange }: { columns: string[]; onChange: (columns: string[]) => void }) {
  const { data: overview } = useQuery(overviewQuery);
  const { data: checkpoints } = useQuery(checkpointsQuery);
  const { data: runs } = useQuery(runsQuery);
  const names = new Map(runs?.runs.map((run) => [run.run_id, runLabel(run)]));
  const bases = overview?.base_models.map(({ name }) => name) ?? [];
  const saved = (checkpoints?.checkpoints ?? [])
    .filter(({ checkpoint_type: type }) => type !== 'external')
    .map(({ tinker_path: path, checkpoint_id: id }) => {
      const run = path.slice('tinker://'.length).split('/')[0] ?? '';
      return { path, label: `${names.get(run) ?? run.slice(0, 8)} · ${id}` };
    });
  const known = new Set([...bases, ...saved.map(({ path }) => path)]);
  const next = saved.find(({ path }) => !columns.includes(path))?.path ?? bases[0];
  return (
    <div className="play-columns play-heads">
      {columns.map((model, at) => (
        <div key={at} className="play-head">
          <select
            aria-label={`Model of column ${at + 1}`}
            value={model}
            onChange={(event) =>
              onChange(columns.map((other, place) => (place === at ? event.target.value : other)))
            }
          >
            <optgroup label="Base models">
              {bases.map((name) => (
                <option key={name} value={name}>
                  {shortModel(name)}
                </option>
              ))}
            </optgroup>
            {(saved.length > 0 || !known.has(model)) && (
              <optgroup label="Checkpoints">
                {!known.has(model) && <option value={model}>{model}</option>}
                {saved.map(({ path, label }) => (
                  <option key={path} value={path}>
                    {label}
                  </option>
                ))}
              </optgroup>
            )}
          </select>
          {columns.length > 1 && (
            <button
              type="button"
              className="icon"
              aria-label={`Remove column ${at + 1}`}
              title="Remove this column"
              onClick={() => onChange(columns.filter((_, place) => place !== at))}
            >
              <X size={15} aria-hidden />
            </button>
          )}
          {at === columns.length - 1 && columns.length < MAX_COLUMNS && next && (
            <button type="button" onClick={() => onChange([...columns, next])}>
              <Plus size={14} aria-hidden /> Compare
            </button>
          )}
        </div>
      ))}
    </div>
  );
}

function TurnView({ turn, columns, tinted }: { turn: Turn; columns: string[]; tinted: boolean }) {
  return (
    <section className="turn" aria-label="Turn">
      <p className="turn-user">{turn.text}</p>
      <div className="play-columns">
        {columns.map((model, at) => {
          const answer = turn.answers[at];
          return (
            <AnswerView
              key={at}
              answer={answer?.model === model ? answer : undefined}
              model={model}
              tinted={tinted}
            />
          );
        })}
      </div>
    </section>
  );
}

function AnswerView({
  answer,
  model,
  tinted,
}: {
  answer: Answer | undefined;
  model: string;
  tinted: boolean;
}) {
  const name = model.startsWith('tinker://') ? model.split('/').slice(-2).join('/') : shortModel(model);
  return (
    <div className="answer" aria-busy={answer?.state === 'running'}>
      <span className="answer-name">{name}</span>
      {!answer ? (
        <p className="muted">Not asked in this turn</p>
      ) : answer.state === 'failed' ? (
        <p className="problem" role="alert">
          {answer.problem}
        </p>
      ) : (
        <>
          <Tokens
            tokens={alignTokens(answer.tokens, answer.text)}
            tinted={tinted}
            label={`Answer of ${name}`}
          />
          <p className="answer-foot muted">{footOf(answer)}</p>
        </>
      )}
    </div>
  );
}

function footOf({ state, tokens, seconds, finish }: Answer): string {
  if (tokens.length === 0) return state === 'running' ? 'waiting for the first token' : 'empty answer';
  const rate = seconds > 0 ? `, ${formatRate(tokens.length / seconds)} tok/s` : '';
  const perplexity = Math.exp(-tokens.reduce((sum, { logprob }) => sum + logprob, 0) / tokens.length);
  const end =
    { stop: 'ended by itself', length: 'cut at the limit', stopped: 'stopped' }[finish ?? ''] ?? 'writing';
  return `${formatCount(tokens.length)} tokens${rate}, perplexity ${perplexity.toFixed(2)}, ${end}`;
}

interface ComposerProps {
  isBusy: boolean;
  isReady: boolean;
  mode: PlaygroundOptions['mode'];
  onSend: (text: string) => void;
  onStop: () => void;
}

function Composer({ isBusy, isReady, mode, onSend, onStop }: ComposerProps) {
  const [text, setText] = useState('');
  const field = useRef<HTMLTextAreaElement>(null);
  const submit = (event?: FormEvent): void => {
    event?.preventDefault();
    if (isBusy || !isReady || text.trim() === '') return;
    onSend(text);
    setText('');
    field.current?.focus();
  };
  const enter = (event: KeyboardEvent): void => {
    if (event.key !== 'Enter' || event.shiftKey || event.nativeEvent.isComposing) return;
    event.preventDefault();
    submit();
  };
  return (
    <form className="composer" onSubmit={submit}>
      <textarea
        ref={field}
        rows={2}
        aria-label={mode === 'chat' ? 'Message' : 'Text to go on from'}
        placeholder={
          mode === 'chat' ? 'Message. Enter sends, Shift+Enter breaks the line' : 'Text to go on from'
        }
        value={text}
        onChange={(event) => setText(event.target.value)}
        onKeyDown={enter}
      />
      {isBusy ? (
        <button type="button" onClick={onStop}>
          <Square size={14} aria-hidden /> Stop
        </button>
      ) : (
        <button type="submit" className="primary" disabled={!isReady || text.trim() === ''}>
          <SendHorizontal size={14} aria-hidden /> Send
        </button>
      )}
    </form>
  );
}

import type { Checkpoint } from '@anneal/types';
import { useQueryClient } from '@tanstack/react-query';
import { Clock, Download, Globe, Lock, MessagesSquare, Trash2 } from 'lucide-react';
import { useId, useState } from 'react';
import { useLocation } from 'wouter';
import { deleteCheckpoint, downloadLink, setPublished, setTtl } from '../api/checkpoints.ts';
import { formatAge, formatBytes, formatDuration, formatTime } from '../lib/format.ts';
import { useNow } from '../lib/now.ts';
import { CopyButton } from './copy-button.tsx';
import { Dialog } from './dialog.tsx';
import { TableFrame } from './table-frame.tsx';

const KINDS = { training: 'weights and optimizer', sampler: 'weights', external: 'export' };
const HOUR = 3600;
const TTLS: [string, number | null][] = [
  ['never', null],
  ['in an hour', HOUR],
  ['in a day', 24 * HOUR],
  ['in a week', 7 * 24 * HOUR],
  ['in 30 days', 30 * 24 * HOUR],
];

interface CheckpointTableProps {
  checkpoints: Checkpoint[];
  runId: string;
  /** What they are compared with in the playground. */
  baseModel: string;
}

type Asked = { what: 'delete' | 'expire' | 'publish'; checkpoint: Checkpoint };

/** Checkpoints of a run and what can be done with them. */
export function CheckpointTable({ checkpoints, runId, baseModel }: CheckpointTableProps) {
  const [asked, setAsked] = useState<Asked>();
  const [problem, setProblem] = useState<string>();
  const [, navigate] = useLocation();
  const now = useNow();
  const chat = (path: string): void => {
    const models = new URLSearchParams([baseModel, path].map((model) => ['model', model]));
    navigate(`/playground?${models}`);
  };
  const newestFirst = checkpoints.toReversed();

  const download = async (path: string): Promise<void> => {
    setProblem(undefined);
    try {
      location.assign(await downloadLink(path));
    } catch (error) {
      setProblem((error as Error).message);
    }
  };

  return (
    <>
      {problem && (
        <p className="problem" role="alert">
          {problem}
        </p>
      )}
      <TableFrame label="Checkpoints">
        <thead>
          <tr>
            <th>Name</th>
            <th>Holds</th>
            <th className="num">Size</th>
            <th>Saved</th>
            <th>Expires</th>
            <th>Visible to</th>
            <th>
              <span className="hidden">Actions</span>
            </th>
          </tr>
        </thead>
        <tbody>
          {newestFirst.map((checkpoint) => {
            const { tinker_path: path, public: isPublic, expires_at: expiry } = checkpoint;
            const name = checkpoint.checkpoint_id.split('/').at(-1) ?? '';
            return (
              <tr key={path}>
                <td>
                  <span className="with-icon">
                    {name}
                    <CopyButton text={path} label={`Copy the path of ${name}`} />
                  </span>
                </td>
                <td>{KINDS[checkpoint.checkpoint_type]}</td>
                <td className="num">{formatBytes(checkpoint.size_bytes ?? 0)}</td>
                <td title={formatTime(Date.parse(checkpoint.time))}>
                  {formatAge(Date.parse(checkpoint.time), now)}
                </td>
                <td>{expiry ? `in ${formatDuration(Date.parse(expiry) - now)}` : 'never'}</td>
                <td>{isPublic ? 'everyone here' : 'you'}</td>
                <td className="row-actions">
                  {checkpoint.checkpoint_type !== 'external' && (
                    <Action
                      name={`Chat with ${name}`}
                      icon={<MessagesSquare size={15} aria-hidden />}
                      onClick={() => chat(path)}
                    />
                  )}
                  <Action
                    name={`Download ${name}`}
                    icon={<Download size={15} aria-hidden />}
                    onClick={() => void download(path)}
                  />
                  <Action
                    name={isPublic ? `Unpublish ${name}` : `Publish ${name}`}
                    icon={isPublic ? <Lock size={15} aria-hidden /> : <Globe size={15} aria-hidden />}
                    onClick={() => setAsked({ what: 'publish', checkpoint })}
                  />
                  <Action
                    name={`Set the expiry of ${name}`}
                    icon={<Clock size={15} aria-hidden />}
                    onClick={() => setAsked({ what: 'expire', checkpoint })}
                  />
                  <Action
                    name={`Delete ${name}`}
                    icon={<Trash2 size={15} aria-hidden />}
                    onClick={() => setAsked({ what: 'delete', checkpoint })}
                  />
                </td>
              </tr>
            );
          })}
        </tbody>
      </TableFrame>
      {asked && <Ask asked={asked} runId={runId} onClose={() => setAsked(undefined)} />}
    </>
  );
}

function Action({ name, icon, onClick }: { name: string; icon: React.ReactNode; onClick: () => void }) {
  return (
    <button type="button" className="icon" aria-label={name} title={name} onClick={onClick}>
      {icon}
    </button>
  );
}

function Ask({
  asked: { what, checkpoint },
  runId,
  onClose,
}: {
  asked: Asked;
  runId: string;
  onClose: () => void;
}) {
  const client = useQueryClient();
  const [ttl, setChosen] = useState<number | null>(null);
  const select = useId();
  const { checkpoint_id: id, tinker_path: path, public: isPublic } = checkpoint;
  const done = async (work: Promise<void>): Promise<void> => {
    await work;
    await client.invalidateQueries({ queryKey: ['run', runId] });
    void client.invalidateQueries({ queryKey: ['checkpoints'] });
  };
  if (what === 'delete') {
    return (
      <Dialog
        title={`Delete ${id}?`}
        action="Delete"
        danger
        onAction={() => done(deleteCheckpoint(path))}
        onClose={onClose}
      >
        <p>
          Its files go, too. Whoever samples from it or resumes from it gets an error. This cannot be undone.
        </p>
      </Dialog>
    );
  }
  if (what === 'publish') {
    return (
      <Dialog
        title={isPublic ? `Unpublish ${id}?` : `Publish ${id}?`}
        action={isPublic ? 'Unpublish' : 'Publish'}
        onAction={() => done(setPublished(path, !isPublic))}
        onClose={onClose}
      >
        <p>
          {isPublic
            ? 'Only keys of yours can read it then.'
            : 'Everyone with a key of this server can sample from it, resume from it and download it then.'}
        </p>
      </Dialog>
    );
  }
  return (
    <Dialog
      title={`When should ${id} expire?`}
      action="Set"
      onAction={() => done(setTtl(path, ttl))}
      onClose={onClose}
    >
      <label htmlFor={select}>Delete it</label>
      <select
        id={select}
        value={ttl ?? ''}
        onChange={(event) => setChosen(event.target.value === '' ? null : Number(event.target.value))}
      >
        {TTLS.map(([name, seconds]) => (
          <option key={name} value={seconds ?? ''}>
            {name}
          </option>
        ))}
      </select>
    </Dialog>
  );
}

/** Rows as lists show them. */
import type { Session, StoredCheckpoint, TrainingRun as StoredRun } from '@anneal/store';
import type { Checkpoint, SessionSummary, TrainingRun } from '@anneal/types';
import { pathOf } from '../services/checkpoints.ts';
import { statusOf } from '../services/sessions.ts';

const types = { weights: 'training', sampler_weights: 'sampler', external_weights: 'external' } as const;

/** Metadata as text, which is all that clients read. */
export function texts(metadata: Record<string, unknown> | null): Record<string, string> | null {
  if (!metadata) return null;
  const entries = Object.entries(metadata);
  return Object.fromEntries(
    entries.map(([key, value]) => [key, typeof value === 'string' ? value : JSON.stringify(value)]),
  );
}

export function toCheckpoint(checkpoint: StoredCheckpoint): Checkpoint {
  return {
    checkpoint_id: `${checkpoint.kind}/${checkpoint.name}`,
    checkpoint_type: types[checkpoint.kind],
    time: new Date(checkpoint.createdAt).toISOString(),
    tinker_path: pathOf(checkpoint),
    size_bytes: checkpoint.sizeBytes,
    public: checkpoint.public,
    user_metadata: texts(checkpoint.userMetadata),
    expires_at: checkpoint.expiresAt === null ? null : new Date(checkpoint.expiresAt).toISOString(),
  };
}

/** `latest`: the newest checkpoint of each kind of this run. */
export function toTrainingRun(run: StoredRun, latest: StoredCheckpoint[]): TrainingRun {
  const newest = (kind: StoredCheckpoint['kind']) => {
    const found = latest.find((checkpoint) => checkpoint.runId === run.id && checkpoint.kind === kind);
    return found ? toCheckpoint(found) : null;
  };
  return {
    training_run_id: run.id,
    base_model: run.baseModel,
    model_owner: run.owner,
    is_lora: true,
    corrupted: run.corrupted,
    lora_rank: run.lora.rank,
    last_request_time: new Date(run.lastRequestAt).toISOString(),
    last_checkpoint: newest('weights'),
    last_sampler_checkpoint: newest('sampler_weights'),
    user_metadata: texts(run.userMetadata),
  };
}

export function toSessionSummary(session: Session, stored: { count: number; bytes: number }): SessionSummary {
  return {
    session_id: session.id,
    created_at: new Date(session.createdAt).toISOString(),
    owner: session.owner,
    project_id: session.projectId ?? '',
    status: statusOf(session),
    checkpoints_count: stored.count,
    display_name: session.displayName,
    user_metadata: texts(session.userMetadata),
    checkpoint_storage_bytes: stored.bytes,
  };
}

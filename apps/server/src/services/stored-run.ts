import { randomUUID } from 'node:crypto';
import type { Session, TrainingRun } from '@anneal/store';
import { formatModelId } from '@anneal/types';

/** A session that is over from the start: it only holds stored content. */
export function endedSession(owner: string, projectId: string | null, id: string = randomUUID()): Session {
  const now = Date.now();
  return {
    id,
    owner,
    projectId,
    displayName: null,
    tags: [],
    userMetadata: {},
    sdkVersion: '',
    createdAt: now,
    lastHeartbeatAt: now,
    finishedAt: now,
    finishReason: 'success',
    finishDetail: null,
  };
}

/** A run that only holds checkpoints: it has no model in training. */
export function storedRun(
  session: Session,
  seq: number,
  parts: Pick<TrainingRun, 'baseModel' | 'lora' | 'userMetadata'>,
): TrainingRun {
  const now = Date.now();
  return {
    id: formatModelId(session.id, seq),
    sessionId: session.id,
    owner: session.owner,
    projectId: session.projectId,
    ...parts,
    createdAt: now,
    lastRequestAt: now,
    lastSeq: 0n,
    corrupted: false,
    unloadedAt: now,
    snapshot: null,
    changedSeq: 0n,
  };
}

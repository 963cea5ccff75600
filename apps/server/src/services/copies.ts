import { createHash, randomUUID } from 'node:crypto';
import type { Session, Store, StoredCheckpoint, TrainingRun } from '@anneal/store';
import { type CopyWeightsRequest, formatModelId } from '@anneal/types';
import { ApiError } from '../errors.ts';
import { type CheckpointService, pathOf } from './checkpoints.ts';
import type { SessionService } from './sessions.ts';
import { endedSession, storedRun } from './stored-run.ts';

/** Copies of checkpoints: the content is shared, the copy has its own run, expiry and owner. */
export class CopyService {
  readonly #store: Store;
  readonly #sessions: SessionService;
  readonly #checkpoints: CheckpointService;

  constructor(store: Store, sessions: SessionService, checkpoints: CheckpointService) {
    this.#store = store;
    this.#sessions = sessions;
    this.#checkpoints = checkpoints;
  }

  /** Path of the copy. The same idempotency key gives the same copy. */
  async copy(owner: string, request: CopyWeightsRequest, idempotencyKey?: string): Promise<string> {
    if (request.weights_access_token) {
      const message = 'weights_access_token is not used here: the owner can publish the checkpoint instead';
      throw new ApiError('invalid_request', message);
    }
    const source = await this.#checkpoints.find(request.source_path, owner);
    const run = await this.#target(owner, request, source, idempotencyKey);
    const existing = await this.#store.checkpoints.get({
      runId: run.id,
      kind: source.kind,
      name: source.name,
    });
    if (existing?.blob === source.blob) return pathOf(existing);
    const ttl = request.ttl_seconds;
    const now = Date.now();
    const copy: StoredCheckpoint = {
      ...source,
      runId: run.id,
      owner,
      public: false,
      createdAt: now,
      expiresAt: ttl ? now + ttl * 1000 : null,
    };
    await this.#checkpoints.list(copy);
    return pathOf(copy);
  }

  async #target(
    owner: string,
    request: CopyWeightsRequest,
    source: StoredCheckpoint,
    key: string | undefined,
  ): Promise<TrainingRun> {
    const { session_id: sessionId, model_seq_id: seq } = request;
    const session = sessionId
      ? await this.#sessions.getOpen(sessionId, owner)
      : await this.#newSession(owner, request.destination_project_id ?? null, key);
    const id = formatModelId(session.id, seq ?? 0);
    const known = await this.#store.runs.get(id);
    if (known) return known;
    const run = storedRun(session, seq ?? 0, await this.#origin(source));
    await this.#store.runs.create(run);
    return run;
  }

  /** A finished session that holds nothing but the copy. */
  async #newSession(owner: string, projectId: string | null, key: string | undefined): Promise<Session> {
    const id = key ? idFrom(owner, key) : randomUUID();
    const known = await this.#store.sessions.get(id);
    if (known) return known;
    const session = endedSession(owner, projectId, id);
    await this.#store.sessions.create(session);
    return session;
  }

  async #origin(source: StoredCheckpoint): Promise<Pick<TrainingRun, 'baseModel' | 'lora' | 'userMetadata'>> {
    const origin = await this.#store.runs.get(source.runId);
    const { baseModel, loraRank: rank, trainAttn, trainMlp, trainUnembed } = source;
    const { alpha, seed, shareExperts = false } = origin?.lora ?? { alpha: 32, seed: null };
    const lora = { rank, alpha, seed, trainAttn, trainMlp, trainUnembed, shareExperts };
    return { baseModel, lora, userMetadata: origin?.userMetadata ?? null };
  }
}

/** Shaped like the other session ids. */
function idFrom(owner: string, key: string): string {
  const hex = createHash('sha256').update(`${owner}\n${key}`).digest('hex');
  const parts = [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20, 32)];
  return parts.join('-');
}

import { randomUUID } from 'node:crypto';
import type {
  CheckpointKey,
  CheckpointKind,
  Page,
  RunLora,
  Store,
  StoredCheckpoint,
  TrainingRun,
} from '@anneal/store';
import { ParsedCheckpointTinkerPath } from '@anneal/types';
import { ApiError } from '../errors.ts';
import { describeFolder, findDamage } from './folder-manifest.ts';

export interface SaveOptions {
  kind: CheckpointKind;
  name: string;
  /** Absent: kept for ever. */
  ttlSeconds?: number | null;
  overwrite?: boolean;
  userMetadata?: Record<string, unknown> | null;
}

/** Saved weights: listed in SQL only once their files are complete, digested and durable. */
export class CheckpointService {
  readonly #store: Store;

  constructor(store: Store) {
    this.#store = store;
  }

  /** A folder for the engine to write into. */
  scratch(): Promise<string> {
    return this.#store.blobs.scratch();
  }

  /**
   * Moves a written folder into place and lists it.
   *
   * @throws ApiError `invalid_request` when the name exists and `overwrite` is off.
   */
  async save(
    run: { id: string; owner: string; baseModel: string; lora: RunLora },
    folder: string,
    options: SaveOptions,
  ): Promise<StoredCheckpoint> {
    const files = await describeFolder(folder);
    const blob = `checkpoints/${randomUUID()}`;
    await this.#store.blobs.put(blob, folder);
    const checkpoint = newCheckpoint(run, options, { blob, files });
    const outcome = await this.#store.checkpoints.put(checkpoint, options.overwrite ?? false);
    if (outcome.exists) {
      await this.#store.blobs.delete(blob);
      throw nameTaken(checkpoint);
    }
    if (outcome.replacedBlob) await this.#store.releaseBlob(outcome.replacedBlob);
    return checkpoint;
  }

  /** Lists content that is in place already, under another name. */
  async list(checkpoint: StoredCheckpoint): Promise<void> {
    const outcome = await this.#store.checkpoints.put(checkpoint, false);
    if (outcome.exists) throw nameTaken(checkpoint);
  }

  /**
   * The checkpoint at a `tinker://` or `logits://` path, if this owner may read it.
   *
   * @throws ApiError `invalid_request` for a malformed path, `not_found` otherwise.
   */
  async find(path: string, owner: string): Promise<StoredCheckpoint> {
    const checkpoint = await this.#store.checkpoints.get(parsePath(path));
    if (!checkpoint || !mayRead(checkpoint, owner)) {
      throw new ApiError('not_found', `Checkpoint "${path}" is unknown`);
    }
    return checkpoint;
  }

  /** @throws ApiError `not_found` unless this owner has it. */
  async findOwn(key: CheckpointKey, owner: string): Promise<StoredCheckpoint> {
    const checkpoint = await this.#store.checkpoints.get(key);
    if (!checkpoint || checkpoint.owner !== owner || isExpired(checkpoint)) throw unknownCheckpoint(key);
    return checkpoint;
  }

  /** Like {@link find}, by its parts. */
  findReadable(key: CheckpointKey, owner: string): Promise<StoredCheckpoint> {
    return this.find(pathOf(key), owner);
  }

  /**
   * A local folder with the content, after checking every byte of it.
   *
   * @throws ApiError when it is damaged; its run is then marked as corrupted.
   */
  async open(checkpoint: StoredCheckpoint): Promise<string> {
    const folder = await this.#store.blobs.local(checkpoint.blob).catch(() => undefined);
    const damage = folder ? await findDamage(folder, checkpoint.files) : 'its files are missing';
    if (folder && !damage) return folder;
    await this.#store.runs.setCorrupted(checkpoint.runId);
    const path = pathOf(checkpoint);
    throw new ApiError('internal', `Checkpoint ${path} is damaged: ${damage}. Load another one.`);
  }

  /** Oldest first; of others' runs only what is published. */
  async ofRun(run: TrainingRun, owner: string): Promise<StoredCheckpoint[]> {
    return (await this.#store.checkpoints.ofRun(run.id)).filter((checkpoint) => mayRead(checkpoint, owner));
  }

  ofOwner(owner: string, limit: number, offset: number): Promise<Page<StoredCheckpoint>> {
    return this.#store.checkpoints.ofOwner(owner, limit, offset);
  }

  /** The newest checkpoint of each kind, for each of these runs. */
  async latest(runs: TrainingRun[], owner: string): Promise<StoredCheckpoint[]> {
    const found = await this.#store.checkpoints.latest(runs.map((run) => run.id));
    return found.filter((checkpoint) => mayRead(checkpoint, owner));
  }

  async delete(key: CheckpointKey, owner: string): Promise<void> {
    await this.findOwn(key, owner);
    const removed = await this.#store.checkpoints.delete(key);
    if (!removed) throw unknownCheckpoint(key);
    await this.#store.releaseBlob(removed.blob);
  }

  async setPublic(key: CheckpointKey, owner: string, isPublic: boolean): Promise<void> {
    await this.findOwn(key, owner);
    await this.#store.checkpoints.setPublic(key, isPublic);
  }

  async setTtl(key: CheckpointKey, owner: string, ttlSeconds: number | null): Promise<void> {
    await this.findOwn(key, owner);
    const expiresAt = ttlSeconds === null ? null : Date.now() + ttlSeconds * 1000;
    await this.#store.checkpoints.setExpiry(key, expiresAt);
  }

  /** Removes what has outlived its time. */
  async sweep(): Promise<void> {
    for (const expired of await this.#store.checkpoints.expired(Date.now())) {
      const removed = await this.#store.checkpoints.delete(expired);
      if (removed) await this.#store.releaseBlob(removed.blob);
    }
  }
}

/** @throws ApiError `invalid_request` that shows the right form. */
export function parsePath(path: string): CheckpointKey {
  try {
    const parsed = ParsedCheckpointTinkerPath.fromTinkerPath(path);
    const [kind = '', name = ''] = parsed.checkpoint_id.split('/');
    return { runId: parsed.training_run_id, kind: kind as CheckpointKind, name };
  } catch (cause) {
    throw new ApiError('invalid_request', (cause as Error).message, { cause });
  }
}

export function pathOf(key: CheckpointKey): string {
  return `tinker://${key.runId}/${key.kind}/${key.name}`;
}

function newCheckpoint(
  run: { id: string; owner: string; baseModel: string; lora: RunLora },
  options: SaveOptions,
  content: Pick<StoredCheckpoint, 'blob' | 'files'>,
): StoredCheckpoint {
  const now = Date.now();
  return {
    runId: run.id,
    kind: options.kind,
    name: options.name,
    owner: run.owner,
    ...content,
    sizeBytes: content.files.reduce((total, file) => total + file.size, 0),
    public: false,
    userMetadata: options.userMetadata ?? null,
    baseModel: run.baseModel,
    loraRank: run.lora.rank,
    trainAttn: run.lora.trainAttn,
    trainMlp: run.lora.trainMlp,
    trainUnembed: run.lora.trainUnembed,
    createdAt: now,
    expiresAt: options.ttlSeconds ? now + options.ttlSeconds * 1000 : null,
  };
}

function mayRead(checkpoint: StoredCheckpoint, owner: string): boolean {
  return (checkpoint.public || checkpoint.owner === owner) && !isExpired(checkpoint);
}

function isExpired(checkpoint: StoredCheckpoint): boolean {
  return checkpoint.expiresAt !== null && checkpoint.expiresAt <= Date.now();
}

function unknownCheckpoint(key: CheckpointKey): ApiError {
  return new ApiError('not_found', `Checkpoint "${pathOf(key)}" is unknown`);
}

function nameTaken(key: CheckpointKey): ApiError {
  const message = `path "${key.name}": ${pathOf(key)} exists; choose another name, or set overwrite where the call has it`;
  return new ApiError('invalid_request', message);
}

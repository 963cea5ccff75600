import type { SamplerSource } from '@anneal/engine';
import type { Sampler, Store } from '@anneal/store';
import { type CreateSamplingSessionRequest, formatSamplerId } from '@anneal/types';
import { ApiError } from '../errors.ts';
import type { BaseModels } from './base-models.ts';
import { type CheckpointService, parsePath } from './checkpoints.ts';
import type { SamplerPool, Weights } from './sampler-pool.ts';
import type { SessionService } from './sessions.ts';

export interface SamplerDeps {
  store: Store;
  baseModels: BaseModels;
  sessions: SessionService;
  checkpoints: CheckpointService;
  pool: SamplerPool;
}

/** Samplers: frozen weights that sampling requests name. */
export class SamplerService {
  readonly #deps: SamplerDeps;

  constructor(deps: SamplerDeps) {
    this.#deps = deps;
  }

  /** Opens a sampler on a base model or a checkpoint; the same request again gives the same sampler. */
  async create(owner: string, request: CreateSamplingSessionRequest): Promise<string> {
    await this.#deps.sessions.getOpen(request.session_id, owner);
    const id = formatSamplerId(request.session_id, request.sampling_session_seq_id);
    const weights = await this.resolve(owner, request);
    await this.#deps.pool.open(weights, () => this.source(weights, request.model_path ?? undefined, owner));
    const now = Date.now();
    const sampler: Sampler = {
      id,
      sessionId: request.session_id,
      owner,
      baseModel: weights.baseModel,
      modelPath: request.model_path ?? null,
      blob: weights.blob,
      clones: 0,
      createdAt: now,
      lastUsedAt: now,
      expiredAt: null,
    };
    if (await this.#deps.store.samplers.create(sampler)) return id;
    const existing = await this.get(id, owner);
    if (existing.blob === weights.blob && existing.baseModel === weights.baseModel) return id;
    const message = `sampling_session_seq_id: sampler "${id}" exists with other weights; count on`;
    throw new ApiError('invalid_request', message);
  }

  /** @throws ApiError `not_found` when there is none of this owner. */
  async get(id: string, owner: string): Promise<Sampler> {
    const sampler = await this.#deps.store.samplers.get(id);
    if (!sampler || sampler.owner !== owner) {
      throw new ApiError('not_found', `sampling_session_id "${id}" is unknown`);
    }
    return sampler;
  }

  async idsOfSession(sessionId: string): Promise<string[]> {
    return (await this.#deps.store.samplers.ofSession(sessionId)).map((sampler) => sampler.id);
  }

  /** A sampler that can be used: its session is open and its weights are kept. */
  async getUsable(id: string, owner: string): Promise<Sampler> {
    const sampler = await this.get(id, owner);
    await this.#deps.sessions.getOpen(sampler.sessionId, owner);
    if (sampler.expiredAt !== null) {
      throw new ApiError('not_found', `sampling_session_id "${id}" was unused for long and has expired`);
    }
    return sampler;
  }

  /** Counts one more client of a sampler; its number keeps the clients' requests apart. */
  async join(id: string, owner: string): Promise<number> {
    await this.get(id, owner);
    return await this.#deps.store.samplers.addClone(id);
  }

  /** The weights behind a base model's name or a checkpoint's path. */
  async resolve(
    owner: string,
    named: { base_model?: string | null; model_path?: string | null },
  ): Promise<Weights> {
    const baseModel = named.base_model ? this.#deps.baseModels.get(named.base_model).name : undefined;
    if (!named.model_path) {
      if (baseModel === undefined) throw new ApiError('invalid_request', 'give base_model or model_path');
      return { baseModel, blob: null };
    }
    if (parsePath(named.model_path).kind === 'external_weights') {
      const message = `model_path "${named.model_path}" is an export for download: sample from weights/ or sampler_weights/`;
      throw new ApiError('invalid_request', message);
    }
    const checkpoint = await this.#deps.checkpoints.find(named.model_path, owner);
    return { baseModel: baseModel ?? checkpoint.baseModel, blob: checkpoint.blob };
  }

  /** Where the engine finds weights. A checkpoint is checked, and what only a sampler holds is taken as it is. */
  async source(weights: Weights, path: string | undefined, owner: string): Promise<SamplerSource> {
    const { baseModel, blob } = weights;
    if (blob === null) return { kind: 'base', baseModel };
    const checkpoint = path
      ? await this.#deps.checkpoints.find(path, owner).catch(() => undefined)
      : undefined;
    const dir =
      checkpoint?.blob === blob
        ? await this.#deps.checkpoints.open(checkpoint)
        : await this.#deps.store.blobs.local(blob);
    return { kind: 'checkpoint', dir, baseModel };
  }

  /** Keeps, of the samplers that a session saved without a name, the most recently used ones. */
  async trim(sessionId: string, keep: number): Promise<void> {
    const samplers = await this.#deps.store.samplers.ofSession(sessionId);
    const unnamed = samplers.filter(({ blob, modelPath }) => blob !== null && modelPath === null);
    const newestFirst = unnamed.sort((a, b) => b.lastUsedAt - a.lastUsedAt || b.createdAt - a.createdAt);
    await this.#giveUp(newestFirst.slice(keep));
  }

  /** Gives up the weights of samplers that nobody used since `before`. */
  async sweep(before: number): Promise<void> {
    await this.#giveUp(await this.#deps.store.samplers.idle(before));
  }

  /** Gives up the weights of an ended session's samplers. */
  async endSession(sessionId: string): Promise<void> {
    const samplers = await this.#deps.store.samplers.ofSession(sessionId);
    await this.#giveUp(samplers.filter(({ blob }) => blob !== null));
  }

  async #giveUp(samplers: Sampler[]): Promise<void> {
    await this.#deps.store.samplers.expire(
      samplers.map((sampler) => sampler.id),
      Date.now(),
    );
    for (const { baseModel, blob } of samplers) {
      this.#deps.pool.close({ baseModel, blob });
      if (blob) await this.#deps.store.releaseBlob(blob);
    }
  }
}

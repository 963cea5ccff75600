import { randomBytes } from 'node:crypto';
import type { Engine } from '@anneal/engine';
import type { Outcome, RunLora, Session, Store, StoredCheckpoint, TrainingRun } from '@anneal/store';
import type { CreateModelRequest, LoadWeightsRequest, UntypedApiFuture } from '@anneal/types';
import { formatModelId } from '@anneal/types';
import { LoraExperts } from '../config.ts';
import { ApiError } from '../errors.ts';
import { bodyHash } from '../wire/body-hash.ts';
import type { BaseModels } from './base-models.ts';
import { type CheckpointService, pathOf } from './checkpoints.ts';
import { jsonResult } from './failure.ts';
import type { LiveModels } from './live-models.ts';
import { toLoraSpec, toRunLora } from './lora-spec.ts';
import type { SessionService } from './sessions.ts';
import type { JobResult, TrainingService } from './training.ts';

export interface ModelDeps {
  store: Store;
  engine: Engine;
  baseModels: BaseModels;
  sessions: SessionService;
  checkpoints: CheckpointService;
  live: LiveModels;
  training: TrainingService;
}

export interface ModelOptions {
  loraAlpha: number;
  loraExperts: LoraExperts;
  /** 0 is no limit. */
  maxModelsPerOwner: number;
}

type CreateFromCheckpoint = LoadWeightsRequest & { session_id: string; model_seq_id: number };
type LoadInto = LoadWeightsRequest & { model_id: string };

/** Making models, from scratch or from a checkpoint, and ending them. */
export class ModelService {
  readonly #deps: ModelDeps;
  readonly #options: ModelOptions;

  constructor(deps: ModelDeps, options: ModelOptions) {
    this.#deps = deps;
    this.#options = options;
  }

  async create(owner: string, request: CreateModelRequest): Promise<UntypedApiFuture> {
    const session = await this.#deps.sessions.getOpen(request.session_id, owner);
    const base = this.#deps.baseModels.get(request.base_model);
    refuseOtherOptimizers(request.optimizer_config);
    const metadata = request.user_metadata ?? null;
    const lora = this.#lora(request, metadata);
    return await this.#start(owner, 'create_model', request, async (id) => {
      const run = newRun(id, session, { baseModel: base.name, lora, metadata });
      await this.#deps.engine.createModel({ modelId: id, baseModel: base.name, lora: toLoraSpec(lora) });
      await this.#register(run);
      return jsonResult({ type: 'create_model', model_id: id });
    });
  }

  async createFromCheckpoint(owner: string, request: CreateFromCheckpoint): Promise<UntypedApiFuture> {
    const session = await this.#deps.sessions.getOpen(request.session_id, owner);
    if (request.base_model) this.#deps.baseModels.get(request.base_model);
    if (request.optimizer_config) refuseOtherOptimizers(request.optimizer_config);
    refuseAccessToken(request.weights_access_token);
    const metadata = request.user_metadata ?? null;
    return await this.#start(owner, 'load_weights', request, async (id) => {
      const checkpoint = await this.#find(request.path, owner);
      const dir = await this.#deps.checkpoints.open(checkpoint);
      const baseModel = request.base_model ?? checkpoint.baseModel;
      const withOptimizer = request.optimizer;
      const loaded = await this.#deps.engine.loadCheckpoint({ modelId: id, dir, baseModel, withOptimizer });
      const run = newRun(id, session, { baseModel, lora: toRunLora(loaded.lora), metadata });
      const snapshot = { seq: 0n, step: loaded.step, blob: checkpoint.blob, withOptimizer };
      await this.#register({ ...run, snapshot });
      return jsonResult({ type: 'load_weights', model_id: id, path: pathOf(checkpoint) });
    });
  }

  /** Replaces the state of a live model: its gradient is dropped, and without `optimizer` the optimizer starts fresh. */
  async loadInto(owner: string, request: LoadInto): Promise<UntypedApiFuture> {
    refuseAccessToken(request.weights_access_token);
    const { engine, checkpoints, live: models } = this.#deps;
    return await this.#deps.training.submit(owner, {
      kind: 'load_weights',
      modelId: request.model_id,
      seq: request.seq_id ?? undefined,
      bodyHash: bodyHash(request),
      barrier: true,
      replacesModel: true,
      run: async (live, seq) => {
        const checkpoint = await this.#find(request.path, owner);
        const dir = await checkpoints.open(checkpoint);
        const { id, baseModel } = live.run;
        const withOptimizer = request.optimizer;
        await live.parking;
        const loading = engine.loadCheckpoint({ modelId: id, dir, baseModel, withOptimizer });
        const result = (async (): Promise<JobResult> => {
          const loaded = await loading;
          const lora = toRunLora(loaded.lora);
          const snapshot = { seq, step: loaded.step, blob: checkpoint.blob, withOptimizer };
          const replaced = models.replaced(live, { lora, snapshot });
          return {
            outcome: jsonResult({ type: 'load_weights', path: pathOf(checkpoint), model_id: id }),
            effect: { changedSeq: seq, snapshot, adapter: { baseModel, lora } },
            ...(replaced ? { after: () => this.#deps.store.releaseBlob(replaced) } : {}),
          };
        })();
        return { result };
      },
    });
  }

  /** Frees a model; its checkpoints stay. */
  async unload(owner: string, modelId: string): Promise<UntypedApiFuture> {
    const run = await this.#deps.training.getRun(modelId, owner);
    const requestId = `${modelId}:unload`;
    const future = { requestId, owner, kind: 'unload_model', modelId, samplerId: null, seq: null };
    await this.#deps.training.start({ ...future, bodyHash: bodyHash({ modelId }) }, async () => {
      await this.#deps.live.drop(run, new ApiError('invalid_request', `model_id "${modelId}" was unloaded`));
      return jsonResult({ type: 'unload_model', model_id: modelId });
    });
    return { request_id: requestId, model_id: modelId };
  }

  async #start(
    owner: string,
    kind: string,
    request: { session_id: string; model_seq_id: number },
    work: (modelId: string) => Promise<Outcome>,
  ): Promise<UntypedApiFuture> {
    const modelId = formatModelId(request.session_id, request.model_seq_id);
    const requestId = `${modelId}:create`;
    const future = { requestId, owner, kind, modelId, samplerId: null, seq: null };
    await this.#deps.training.start({ ...future, bodyHash: bodyHash(request) }, async () => {
      await this.#checkQuota(owner);
      if (await this.#deps.store.runs.get(modelId)) throw modelExists(modelId);
      return await work(modelId);
    });
    return { request_id: requestId, model_id: modelId };
  }

  async #register(run: TrainingRun): Promise<void> {
    await this.#deps.store.runs.create(run);
    this.#deps.live.adopt(run);
  }

  async #checkQuota(owner: string): Promise<void> {
    const limit = this.#options.maxModelsPerOwner;
    if (limit === 0 || (await this.#deps.store.runs.countLive(owner)) < limit) return;
    const message = `You have ${limit} models in training, which is the limit: finish a session or unload a model`;
    throw new ApiError('quota_exceeded', message);
  }

  async #find(path: string, owner: string): Promise<StoredCheckpoint> {
    const checkpoint = await this.#deps.checkpoints.find(path, owner);
    if (checkpoint.kind === 'weights') return checkpoint;
    const message = `path "${path}" holds no training state: load a checkpoint under /weights/`;
    throw new ApiError('invalid_request', message);
  }

  #lora(request: CreateModelRequest, metadata: Record<string, unknown> | null): RunLora {
    const config = request.lora_config;
    return {
      rank: config?.rank ?? 32,
      alpha: alphaOf(metadata) ?? this.#options.loraAlpha,
      seed: config?.seed ?? randomBytes(8).readBigUInt64LE(),
      trainAttn: config?.train_attn ?? true,
      trainMlp: config?.train_mlp ?? true,
      trainUnembed: config?.train_unembed ?? true,
      ...((expertsOf(metadata) ?? this.#options.loraExperts) === 'shared' ? { shareExperts: true } : {}),
    };
  }
}

/** `user_metadata.lora_alpha` chooses another LoRA alpha for one model. */
function alphaOf(metadata: Record<string, unknown> | null): number | undefined {
  const given = metadata?.lora_alpha;
  if (given === undefined) return undefined;
  const alpha = typeof given === 'string' || typeof given === 'number' ? Number(given) : Number.NaN;
  if (Number.isFinite(alpha) && alpha > 0) return alpha;
  const shown = typeof given === 'string' ? `"${given}"` : typeof given;
  throw new ApiError('invalid_request', `user_metadata.lora_alpha must be a positive number, got ${shown}`);
}

/** `user_metadata.lora_experts` chooses for one model whether experts share a side of their adapters. */
function expertsOf(metadata: Record<string, unknown> | null): LoraExperts | undefined {
  const given = metadata?.lora_experts;
  if (given === undefined) return undefined;
  const parsed = LoraExperts.safeParse(given);
  if (parsed.success) return parsed.data;
  const message = `user_metadata.lora_experts must be "each" or "shared", got ${JSON.stringify(given)}`;
  throw new ApiError('invalid_request', message);
}

function refuseOtherOptimizers(config: { type: string }): void {
  if (config.type === 'adamw') return;
  throw new ApiError(
    'invalid_request',
    `optimizer_config.type "${config.type}" is not served here; use "adamw"`,
  );
}

function refuseAccessToken(token: string | null | undefined): void {
  if (!token) return;
  const message = 'weights_access_token is not used here: the owner can publish the checkpoint instead';
  throw new ApiError('invalid_request', message);
}

function modelExists(modelId: string): ApiError {
  const message = `model_seq_id: model "${modelId}" exists already; count on for each new model of a session`;
  return new ApiError('invalid_request', message);
}

function newRun(
  id: string,
  session: Session,
  parts: { baseModel: string; lora: RunLora; metadata: Record<string, unknown> | null },
): TrainingRun {
  const now = Date.now();
  return {
    id,
    sessionId: session.id,
    owner: session.owner,
    projectId: session.projectId,
    baseModel: parts.baseModel,
    lora: parts.lora,
    userMetadata: parts.metadata,
    createdAt: now,
    lastRequestAt: now,
    lastSeq: 0n,
    corrupted: false,
    unloadedAt: null,
    snapshot: null,
    changedSeq: 0n,
  };
}

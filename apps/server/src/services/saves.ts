import { randomUUID } from 'node:crypto';
import type { Engine } from '@anneal/engine';
import type { Sampler, Store } from '@anneal/store';
import type {
  SaveWeightsExternalRequest,
  SaveWeightsForSamplerRequest,
  SaveWeightsRequest,
  UntypedApiFuture,
} from '@anneal/types';
import { formatSamplerId } from '@anneal/types';
import { ApiError } from '../errors.ts';
import { bodyHash } from '../wire/body-hash.ts';
import { type CheckpointService, pathOf, type SaveOptions } from './checkpoints.ts';
import { exportFolder } from './external-export.ts';
import { jsonResult } from './failure.ts';
import type { LiveModel } from './live-models.ts';
import type { SamplerPool } from './sampler-pool.ts';
import type { SamplerService } from './samplers.ts';
import type { JobResult, TrainingService } from './training.ts';

export interface SaveDeps {
  store: Store;
  engine: Engine;
  training: TrainingService;
  checkpoints: CheckpointService;
  pool: SamplerPool;
  samplers: SamplerService;
}

type SamplerSave = SaveWeightsForSamplerRequest & { sampling_session_seq_id: number };

/** Saving a model: for a resume, for sampling, for use elsewhere. Each sees exactly the requests before it. */
export class SaveService {
  readonly #deps: SaveDeps;
  readonly #samplersPerSession: number;

  constructor(deps: SaveDeps, options: { samplersPerSession: number }) {
    this.#deps = deps;
    this.#samplersPerSession = options.samplersPerSession;
  }

  saveWeights(owner: string, request: SaveWeightsRequest): Promise<UntypedApiFuture> {
    return this.#submit(owner, request, async (live, folder, seq) => {
      await this.#write(live, folder, 'training');
      const checkpoint = await this.#deps.checkpoints.save(live.run, folder, {
        ...optionsOf(request, 'weights', seq),
        overwrite: request.overwrite,
        userMetadata: request.user_metadata ?? null,
      });
      return { type: 'save_weights', path: pathOf(checkpoint) };
    });
  }

  /** A listed checkpoint with a name, or a sampler of its own without one. */
  saveForSampler(owner: string, request: SaveWeightsForSamplerRequest): Promise<UntypedApiFuture> {
    const { sampling_session_seq_id: samplerSeq } = request;
    if (request.path == null && samplerSeq != null) {
      return this.#saveAsSampler(owner, { ...request, sampling_session_seq_id: samplerSeq });
    }
    return this.#submit(owner, request, async (live, folder, seq) => {
      await this.#write(live, folder, 'sampler');
      const checkpoint = await this.#deps.checkpoints.save(live.run, folder, {
        ...optionsOf(request, 'sampler_weights', seq),
        userMetadata: request.user_metadata ?? null,
      });
      return { type: 'save_weights_for_sampler', path: pathOf(checkpoint) };
    });
  }

  /** PEFT files for download, encrypted if recipients are named. */
  saveExternal(owner: string, request: SaveWeightsExternalRequest): Promise<UntypedApiFuture> {
    return this.#submit(owner, request, async (live, folder, seq) => {
      await this.#write(live, folder, 'sampler');
      const exported = await this.#deps.checkpoints.scratch();
      await exportFolder(folder, exported, request.age_encryption_recipients ?? []);
      const options = optionsOf(request, 'external_weights', seq);
      const checkpoint = await this.#deps.checkpoints.save(live.run, exported, options);
      const size = checkpoint.sizeBytes;
      return { type: 'save_weights_external', path: pathOf(checkpoint), size_bytes: size };
    });
  }

  /** The engine keeps the weights at hand as a sampler, and a copy is stored, so that it outlives a restart. */
  #saveAsSampler(owner: string, request: SamplerSave): Promise<UntypedApiFuture> {
    const { store, pool, samplers } = this.#deps;
    return this.#submit(owner, request, async (live, folder) => {
      const { run } = live;
      const id = formatSamplerId(run.sessionId, request.sampling_session_seq_id);
      const blob = `samplers/${randomUUID()}`;
      const opened = pool.open({ baseModel: run.baseModel, blob }, () => ({
        kind: 'model',
        modelId: run.id,
      }));
      opened.catch(() => {});
      await this.#write(live, folder, 'sampler');
      await opened;
      await store.blobs.put(blob, folder);
      if (!(await store.samplers.create(newSampler(id, live, blob)))) {
        pool.close({ baseModel: run.baseModel, blob });
        await store.blobs.delete(blob);
        throw new ApiError('invalid_request', `sampling_session_seq_id: sampler "${id}" exists; count on`);
      }
      await samplers.trim(run.sessionId, this.#samplersPerSession);
      return { type: 'save_weights_for_sampler', sampling_session_id: id };
    });
  }

  #submit(
    owner: string,
    request: { type: string; model_id: string; seq_id?: number | null },
    save: (live: LiveModel, folder: string, seq: bigint) => Promise<Record<string, unknown>>,
  ): Promise<UntypedApiFuture> {
    return this.#deps.training.submit(owner, {
      kind: request.type,
      modelId: request.model_id,
      seq: request.seq_id ?? undefined,
      bodyHash: bodyHash(request),
      run: async (live, seq) => {
        const folder = await this.#deps.checkpoints.scratch();
        const saved = save(live, folder, seq);
        const result = (async (): Promise<JobResult> => ({ outcome: jsonResult(await saved) }))();
        return { result };
      },
    });
  }

  #write(live: LiveModel, dir: string, kind: 'training' | 'sampler'): Promise<void> {
    return this.#deps.engine.saveCheckpoint({ modelId: live.run.id, dir, kind });
  }
}

function optionsOf(
  request: { path?: string | null; ttl_seconds?: number | null },
  kind: SaveOptions['kind'],
  seq: bigint,
): SaveOptions {
  return { kind, name: request.path ?? `request-${seq}`, ttlSeconds: request.ttl_seconds ?? null };
}

function newSampler(id: string, { run }: LiveModel, blob: string): Sampler {
  const now = Date.now();
  return {
    id,
    sessionId: run.sessionId,
    owner: run.owner,
    baseModel: run.baseModel,
    modelPath: null,
    blob,
    clones: 0,
    createdAt: now,
    lastUsedAt: now,
    expiredAt: null,
  };
}

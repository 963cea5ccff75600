import {
  type CopyWeightsRequest,
  CreateCustomLossRequest,
  CreateModelRequest,
  type CustomLossGraph,
  type CustomLossInput,
  formatModelId,
  GetServerCapabilitiesResponse,
  LoadWeightsRequest,
  type OptimizerConfig,
  SessionFinishReasonType,
} from '@anneal/types';
import { APIFuture, type FutureContext } from './core/api-future.ts';
import { TinkerError } from './core/errors.ts';
import { type ClientOptions, readEnvironment } from './core/options.ts';
import type { LossHandle } from './custom-loss.ts';
import { LazyBackend } from './internal/backend.ts';
import { copyWeightsCall, copyWeightsResult } from './internal/copy-weights.ts';
import { parseArgument } from './internal/parse-argument.ts';
import { QueueWatch } from './internal/queue-watch.ts';
import * as kinds from './internal/result-kind.ts';
import { Session, type SessionSettings } from './internal/session.ts';
import { fetchResult, submit } from './internal/submission.ts';
import type { Telemetry } from './internal/telemetry.ts';
import { postRequest } from './internal/wire-request.ts';
import { RestClient } from './rest-client.ts';
import { type SamplerSource, SamplingClient, type SamplingClientOptions } from './sampling-client.ts';
import { type CallOptions, TrainingClient } from './training-client.ts';

/** Settings of a service client. */
export interface ServiceClientOptions extends ClientOptions, SessionSettings {}

/** Settings of a new LoRA model. */
export interface LoraTrainingOptions extends CallOptions {
  /** A name from `getServerCapabilities`. */
  baseModel: string;
  /** Default: 32. */
  rank?: number;
  /** Same seed and shape give the same initial weights. Default: random. */
  seed?: number | bigint;
  /** Defaults: true. */
  trainMlp?: boolean;
  trainAttn?: boolean;
  trainUnembed?: boolean;
  /** Shown in the training run. */
  userMetadata?: Record<string, unknown>;
  /** Default: AdamW. */
  optimizer?: OptimizerConfig;
}

/** Settings of a model that starts from a checkpoint. */
export interface FromStateOptions extends CallOptions {
  /** Instead of the checkpoint's own. */
  baseModel?: string;
  userMetadata?: Record<string, unknown>;
  /** For checkpoints of another account. */
  weightsAccessToken?: string;
}

/** A model's request, before it has a session and a number. */
const NewModelRequest = CreateModelRequest.omit({ session_id: true, model_seq_id: true });

const QUEUE_PATIENCE_MS = 15 * 60_000;

/**
 * The way into the API: makes training and sampling clients. Nothing is sent until the first of them is made.
 *
 * @example
 * const service = new ServiceClient({ baseUrl: 'http://localhost:8000', apiKey: 'tml-...' });
 * const model = await service.createLoraTrainingClient({ baseModel: 'Qwen/Qwen3-8B' });
 * await service.close('success');
 */
export class ServiceClient {
  readonly #backend: LazyBackend;
  readonly #settings: SessionSettings;
  #pending: Promise<Session> | undefined;
  #session: Session | undefined;
  /** Set by {@link close}: the session to end, where there is one. */
  #closed: Promise<Session | undefined> | undefined;

  constructor(options: ServiceClientOptions = {}) {
    this.#backend = new LazyBackend(options);
    const { userMetadata, displayName } = options;
    const projectId = options.projectId ?? readEnvironment('TINKER_PROJECT_ID');
    const tags = options.tags ?? readEnvironment('TINKER_TAGS')?.split(',');
    this.#settings = { userMetadata, displayName, projectId, tags };
  }

  /** The base models that the server offers. */
  getServerCapabilities(options: CallOptions = {}): APIFuture<GetServerCapabilitiesResponse> {
    return new APIFuture(async ({ signal }) => {
      const { http } = await this.#backend.get();
      const call = { method: 'GET', path: '/api/v1/get_server_capabilities', signal } as const;
      return http.json(call, GetServerCapabilitiesResponse);
    }, options);
  }

  /** A new LoRA model and the client that trains it. */
  createLoraTrainingClient(options: LoraTrainingOptions): APIFuture<TrainingClient> {
    const request = parseArgument(NewModelRequest, {
      base_model: options.baseModel,
      lora_config: {
        rank: options.rank,
        seed: options.seed,
        train_mlp: options.trainMlp,
        train_attn: options.trainAttn,
        train_unembed: options.trainUnembed,
      },
      user_metadata: options.userMetadata,
      optimizer_config: options.optimizer,
    });
    const queueSubject = `Creation of a ${options.baseModel} model`;
    return this.#inSession(options, async (session, modelSeqId, context) => {
      const fields = { ...request, session_id: session.id, model_seq_id: modelSeqId };
      const call = postRequest('/api/v1/create_model', CreateModelRequest, fields);
      const queue = new QueueWatch(session.backend.options, queueSubject, QUEUE_PATIENCE_MS);
      const submission = await submit(session.backend, call);
      const created = await fetchResult(session.backend, submission, kinds.CREATE_MODEL, queue, context);
      return TrainingClient.open(session, created.model_id);
    });
  }

  /** A new model with a checkpoint's weights, and a fresh optimizer. */
  createTrainingClientFromState(
    path: string,
    options: FromStateOptions & { optimizer?: OptimizerConfig } = {},
  ): APIFuture<TrainingClient> {
    return this.#fromState(path, false, options);
  }

  /** A new model with a checkpoint's weights and optimizer: training goes on as if it had not stopped. */
  createTrainingClientFromStateWithOptimizer(
    path: string,
    options: FromStateOptions = {},
  ): APIFuture<TrainingClient> {
    return this.#fromState(path, true, options);
  }

  /** A sampler of a base model or of a checkpoint. */
  createSamplingClient(
    options: SamplerSource & SamplingClientOptions & CallOptions,
  ): APIFuture<SamplingClient> {
    if (!options.modelPath && !options.baseModel) throw new TypeError('give modelPath or baseModel');
    return new APIFuture(async ({ signal }) => {
      const session = await this.#getSession();
      signal.throwIfAborted();
      return SamplingClient.create(session, options, { ...options, signal });
    }, options);
  }

  /** Copies a checkpoint into a new training run of this session. */
  copyWeights(
    path: string,
    options: CallOptions & { ttlSeconds?: number; weightsAccessToken?: string } = {},
  ): APIFuture<string> {
    return this.#inSession(options, async (session, model_seq_id, { signal }) => {
      const request = {
        source_path: path,
        session_id: session.id,
        model_seq_id,
        ttl_seconds: options.ttlSeconds,
      } satisfies CopyWeightsRequest;
      return copyWeightsResult(session.backend, copyWeightsCall(request, options.weightsAccessToken, signal));
    });
  }

  /**
   * Uploads a traced loss (a graph as torch.fx writes it) for servers that run custom losses themselves.
   *
   * @throws TinkerError where the server does not: use `forwardBackwardCustom` with a function.
   */
  createCustomLoss(
    loss: { name: string; inputs: CustomLossInput[]; graph: CustomLossGraph },
    options: CallOptions = {},
  ): APIFuture<LossHandle> {
    return new APIFuture(async (context) => {
      const session = await this.#getSession();
      if (!session.backend.config.custom_loss_server_side) {
        throw new TinkerError(
          'this server runs no uploaded losses: pass a function to forwardBackwardCustom',
        );
      }
      const custom_loss_seq_id = session.nextCustomLossSeqId();
      const request = { ...loss, session_id: session.id, custom_loss_seq_id };
      const call = postRequest('/api/v1/create_custom_loss', CreateCustomLossRequest, request);
      const queue = new QueueWatch(session.backend.options, `Loss ${loss.name}`, QUEUE_PATIENCE_MS);
      const submission = await submit(session.backend, call);
      const kind = kinds.CREATE_CUSTOM_LOSS;
      const { loss_id: lossId } = await fetchResult(session.backend, submission, kind, queue, context);
      return { sessionId: session.id, name: loss.name, lossId };
    }, options);
  }

  /** A client for runs, checkpoints and sessions, with the same settings. */
  createRestClient(): RestClient {
    return new RestClient(this.#backend);
  }

  /** The session's page in the console; that of all sessions before there is one. */
  getConsoleUrl(): string {
    const base = `${this.#backend.options.consoleUrl}/sessions`;
    return this.#session ? `${base}/${this.#session.id}` : base;
  }

  /** The session's id, once there is one. */
  get sessionId(): string | undefined {
    return this.#session?.id;
  }

  /** Where usage events go, where the `telemetry` option is on and there is a session. */
  getTelemetry(): Telemetry | undefined {
    return this.#session?.telemetry;
  }

  /**
   * Ends the session: its clients take no more requests, and background work stops. The first call's status stands. A
   * server that cannot be told within ten seconds finds out by itself, as the heartbeats end.
   */
  close(status: SessionFinishReasonType, detail?: string, options: CallOptions = {}): APIFuture<void> {
    const reason = parseArgument(SessionFinishReasonType, status, 'status');
    // A session that could not be made needs no end.
    this.#closed ??= this.#pending?.catch(() => undefined) ?? Promise.resolve(undefined);
    const opened = this.#closed;
    return new APIFuture(async () => (await opened)?.close(reason, detail), options);
  }

  /**
   * Ends the session with success: `await using service = new ServiceClient()`. When the server cannot be told, that is
   * logged: an error here would hide the one that ended the block.
   */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close('success').catch((error) =>
      this.#backend.options.logger.warn(`the session was not closed: ${error}`),
    );
  }

  #getSession(): Promise<Session> {
    if (this.#closed) throw new TinkerError('this ServiceClient is closed: create another one');
    this.#pending ??= this.#createSession().catch((error) => {
      this.#pending = undefined;
      throw error;
    });
    return this.#pending;
  }

  async #createSession(): Promise<Session> {
    this.#session = await Session.create(await this.#backend.get(), this.#settings);
    return this.#session;
  }

  /** Work that makes a model: its number is taken in the order of the calls. */
  #inSession<T>(
    options: CallOptions,
    work: (session: Session, modelSeqId: number, context: FutureContext) => Promise<T>,
  ): APIFuture<T> {
    options.signal?.throwIfAborted();
    const session = this.#getSession();
    return new APIFuture(async (context) => {
      const opened = await session;
      context.signal.throwIfAborted();
      opened.checkOpen();
      return work(opened, opened.nextModelSeqId(), context);
    }, options);
  }

  #fromState(
    path: string,
    optimizer: boolean,
    options: FromStateOptions & { optimizer?: OptimizerConfig },
  ): APIFuture<TrainingClient> {
    return this.#inSession(options, async (session, modelSeqId, context) => {
      const call = postRequest('/api/v1/load_weights', LoadWeightsRequest, {
        session_id: session.id,
        model_seq_id: modelSeqId,
        base_model: options.baseModel,
        user_metadata: options.userMetadata,
        path,
        optimizer,
        optimizer_config: options.optimizer,
        weights_access_token: options.weightsAccessToken,
      });
      const modelId = formatModelId(session.id, modelSeqId);
      const queue = new QueueWatch(session.backend.options, `Loading of ${modelId}`, QUEUE_PATIENCE_MS);
      const submission = await submit(session.backend, call);
      await fetchResult(session.backend, submission, kinds.LOAD_WEIGHTS, queue, context);
      return TrainingClient.open(session, modelId);
    });
  }
}

import {
  type AdamParams,
  Datum,
  type DatumParts,
  type ForwardBackwardOutput,
  GetInfoRequest,
  GetInfoResponse,
  LoadWeightsRequest,
  type LoadWeightsResponse,
  LossFn,
  LossFnConfig,
  OptimStepRequest,
  type OptimStepResponse,
  type SamplingClientKind,
  SaveWeightsExternalRequest,
  type SaveWeightsExternalResponse,
  SaveWeightsForSamplerRequest,
  type SaveWeightsForSamplerResponse,
  type SaveWeightsForSamplerResponseInternal,
  SaveWeightsRequest,
  type SaveWeightsResponse,
  UnloadModelRequest,
  type UnloadModelResponse,
} from '@anneal/types';
import type * as z from 'zod';
import { APIFuture } from './core/api-future.ts';
import { APIResponseValidationError, TinkerError } from './core/errors.ts';
import type { CustomLossFn, LossHandle } from './custom-loss.ts';
import type { Call } from './internal/http.ts';
import { parseArgument } from './internal/parse-argument.ts';
import { QueueWatch } from './internal/queue-watch.ts';
import * as kinds from './internal/result-kind.ts';
import type { Session } from './internal/session.ts';
import { fetchResult, submit } from './internal/submission.ts';
import type { Telemetry } from './internal/telemetry.ts';
import { type Pass, TrainingPasses } from './internal/training-passes.ts';
import { Turns } from './internal/turns.ts';
import { postRequest } from './internal/wire-request.ts';
import { SamplingClient, type SamplingClientOptions } from './sampling-client.ts';
import { loadTokenizer, type TokenizerOptions } from './tokenizer.ts';

/** Settings of one call. */
export interface CallOptions {
  /** Cancels the wait for the result. Before the call it prevents it. */
  signal?: AbortSignal;
}

/** @throws TypeError that names the datum, its field and the value. */
function checkDatum(parts: Datum | DatumParts, index: number): Datum {
  try {
    return Datum.from(parts);
  } catch (error) {
    // What is wrong with arrays is said already; what the schema says is told anew, with the datum's index.
    if (error instanceof TypeError) throw new TypeError(`data[${index}].${error.message}`, { cause: error });
    const loss_fn_inputs = Datum.convertTensors(parts.loss_fn_inputs);
    return parseArgument(Datum, { ...parts, loss_fn_inputs }, `data[${index}]`);
  }
}

/** Hyperparameters of an optimizer other than AdamW. */
export interface OtherOptimizerParams {
  type: string;
  [name: string]: unknown;
}

/** What a method makes of a result. */
type Read<T, R> = (result: T) => R | Promise<R>;

const same = <T>(result: T): T => result;

const QUEUE_PATIENCE_MS = 15 * 60_000;

/**
 * Trains one LoRA model. Requests run on the server in the order in which the methods are called; a method returns at
 * once, so several steps can be under way. Wrong arguments throw at the call, before anything is sent.
 *
 * @example
 * const model = await service.createLoraTrainingClient({ baseModel: 'Qwen/Qwen3-8B', rank: 16 });
 * const pass = model.forwardBackward(data, 'cross_entropy');
 * const step = model.optimStep({ learning_rate: 1e-4 });
 * console.log((await pass).metrics['loss:sum'], await step);
 */
export class TrainingClient {
  /** The model's id, which is its training run's id too. */
  readonly modelId: string;
  readonly #session: Session;
  readonly #info: GetInfoResponse;
  readonly #turns = new Turns();
  readonly #queue: QueueWatch;
  readonly #passes: TrainingPasses;

  /** Use `ServiceClient.createLoraTrainingClient`. */
  constructor(session: Session, info: GetInfoResponse) {
    this.modelId = info.model_id;
    this.#session = session;
    this.#info = info;
    this.#queue = new QueueWatch(session.backend.options, `Training of ${info.model_id}`, QUEUE_PATIENCE_MS);
    this.#passes = new TrainingPasses(session.backend, info.model_id, this.#turns, this.#queue);
  }

  /** The client of a model that exists on the server. */
  static async open(session: Session, modelId: string): Promise<TrainingClient> {
    const call = postRequest('/api/v1/get_info', GetInfoRequest, { model_id: modelId });
    return new TrainingClient(session, await session.backend.http.json(call, GetInfoResponse));
  }

  /** What the model is made of. */
  getInfo(): GetInfoResponse {
    return this.#info;
  }

  /** Where usage events go, where the `telemetry` option is on. */
  getTelemetry(): Telemetry | undefined {
    return this.#session.telemetry;
  }

  /** The model's page in the console. */
  getConsoleUrl(): string {
    return `${this.#session.backend.options.consoleUrl}/training_runs/${this.modelId}`;
  }

  /** The model's tokenizer, from where the server says it is (a hub repository or a folder) unless `options` says otherwise. */
  getTokenizer(options: TokenizerOptions = {}) {
    const { tokenizer_id, model_name } = this.#info.model_data;
    return loadTokenizer(
      tokenizer_id ?? model_name ?? undefined,
      this.#session.backend.options.fetch,
      options,
    );
  }

  /** Loss and logprobs of a batch, without gradients. */
  forward(
    data: readonly (Datum | DatumParts)[],
    lossFn: LossFn,
    lossFnConfig?: LossFnConfig,
    options: CallOptions = {},
  ): APIFuture<ForwardBackwardOutput> {
    return this.#pass(data, { lossFn, config: lossFnConfig, forwardOnly: true }, options);
  }

  /** Adds the gradient of the batch's loss, summed over tokens and datums, to the model's gradient. */
  forwardBackward(
    data: readonly (Datum | DatumParts)[],
    lossFn: LossFn,
    lossFnConfig?: LossFnConfig,
    options: CallOptions = {},
  ): APIFuture<ForwardBackwardOutput> {
    return this.#pass(data, { lossFn, config: lossFnConfig, forwardOnly: false }, options);
  }

  /**
   * Like {@link forwardBackward}, with a loss of your own over the logprobs of `target_tokens`: plain arrays and a
   * gradient you return, or `tensorLoss` of `@anneal/client/tfjs`. Takes two passes on the server. When the loss throws,
   * the client takes no further requests.
   */
  forwardBackwardCustom(
    data: readonly (Datum | DatumParts)[],
    lossFn: CustomLossFn | LossHandle,
    options: CallOptions = {},
  ): APIFuture<ForwardBackwardOutput> {
    if (typeof lossFn !== 'function') return this.#runOnServer(data, lossFn, options);
    const batch = this.#checkBatch(data, options);
    return this.#passes.runCustom(batch, lossFn, options);
  }

  /** Updates the weights with the accumulated gradient, and clears it. Other optimizers than AdamW name their `type`. */
  optimStep(
    params: z.input<typeof AdamParams> = {},
    options: CallOptions = {},
  ): APIFuture<OptimStepResponse> {
    const request = parseArgument(OptimStepRequest, { model_id: this.modelId, adam_params: params });
    return this.#request('/api/v1/optim_step', OptimStepRequest, request, kinds.OPTIM_STEP, options, same);
  }

  /** Saves weights and optimizer under a name, to go on from later. `ttlSeconds`: an hour to ten years. */
  saveState(
    name: string,
    options: CallOptions & {
      ttlSeconds?: number;
      overwrite?: boolean;
      userMetadata?: Record<string, string>;
    } = {},
  ): APIFuture<SaveWeightsResponse> {
    const request = parseArgument(SaveWeightsRequest, {
      model_id: this.modelId,
      path: name,
      ttl_seconds: options.ttlSeconds,
      overwrite: options.overwrite ?? false,
      user_metadata: options.userMetadata,
    });
    const kind = kinds.SAVE_WEIGHTS;
    return this.#request('/api/v1/save_weights', SaveWeightsRequest, request, kind, options, same);
  }

  /** Replaces the weights by a checkpoint's. Prefer `ServiceClient.createTrainingClientFromState`. */
  loadState(
    path: string,
    options: CallOptions & { weightsAccessToken?: string } = {},
  ): APIFuture<LoadWeightsResponse> {
    return this.#load(path, false, options);
  }

  /** Replaces weights and optimizer by a checkpoint's. */
  loadStateWithOptimizer(
    path: string,
    options: CallOptions & { weightsAccessToken?: string } = {},
  ): APIFuture<LoadWeightsResponse> {
    return this.#load(path, true, options);
  }

  /** Saves the weights under a name, for sampling. */
  saveWeightsForSampler(
    name: string,
    options: CallOptions & { ttlSeconds?: number; userMetadata?: Record<string, string> } = {},
  ): APIFuture<SaveWeightsForSamplerResponse> {
    const { ttlSeconds: ttl_seconds, userMetadata: user_metadata } = options;
    return this.#saveForSampler({ path: name, ttl_seconds, user_metadata }, options, ({ path }) => {
      if (path) return { path };
      throw new APIResponseValidationError(`the server saved "${name}" without saying where`);
    });
  }

  /** Exports the weights as PEFT files; `RestClient.getExternalWeightsUrls` says where they are. */
  saveWeightsExternal(
    name: string,
    options: CallOptions & { ttlSeconds?: number; ageEncryptionRecipients?: string[] } = {},
  ): APIFuture<SaveWeightsExternalResponse> {
    const request = parseArgument(SaveWeightsExternalRequest, {
      model_id: this.modelId,
      path: name,
      ttl_seconds: options.ttlSeconds,
      age_encryption_recipients: options.ageEncryptionRecipients,
    });
    const path = '/api/v1/save_weights_external';
    const kind = kinds.SAVE_WEIGHTS_EXTERNAL;
    return this.#request(path, SaveWeightsExternalRequest, request, kind, options, ({ path }) => {
      if (path) return { path };
      throw new APIResponseValidationError(`the server exported "${name}" without saying where`);
    });
  }

  /** A sampler of saved weights. */
  createSamplingClient(
    modelPath: string,
    options: SamplingClientOptions & CallOptions = {},
  ): APIFuture<SamplingClient> {
    return SamplingClient.create(this.#session, { modelPath }, options);
  }

  /** A sampler of the weights as they are after the calls before this one. */
  saveWeightsAndGetSamplingClient(
    options: SamplingClientOptions & CallOptions & { kind?: SamplingClientKind } = {},
  ): APIFuture<SamplingClient> {
    const sampling_session_seq_id = this.#session.nextSamplerSeqId();
    const fields = { sampling_session_seq_id, kind: options.kind ?? 'snapshot' };
    return this.#saveForSampler(fields, options, ({ sampling_session_id: samplerId }) => {
      if (!samplerId) throw new APIResponseValidationError('the server saved a sampler without naming it');
      const { model_name, tokenizer_id } = this.#info.model_data;
      const baseModel = model_name ?? this.#info.model_name ?? undefined;
      return SamplingClient.open(this.#session, samplerId, baseModel, options, tokenizer_id ?? undefined);
    });
  }

  /** Frees the model on the server. Its checkpoints stay. */
  unload(options: CallOptions = {}): APIFuture<UnloadModelResponse> {
    const call = postRequest('/api/v1/unload_model', UnloadModelRequest, { model_id: this.modelId });
    return this.#inTurn(0, () => call, kinds.UNLOAD_MODEL, options, same);
  }

  #load(
    path: string,
    optimizer: boolean,
    options: CallOptions & { weightsAccessToken?: string },
  ): APIFuture<LoadWeightsResponse> {
    const { modelId: model_id } = this;
    const weights_access_token = options.weightsAccessToken;
    const request = { model_id, path, optimizer, weights_access_token };
    parseArgument(LoadWeightsRequest, { ...request, seq_id: 1 });
    const kind = kinds.LOAD_WEIGHTS;
    return this.#request('/api/v1/load_weights', LoadWeightsRequest, request, kind, options, same);
  }

  #saveForSampler<R>(
    fields: Omit<z.input<typeof SaveWeightsForSamplerRequest>, 'model_id'>,
    options: CallOptions,
    read: Read<SaveWeightsForSamplerResponseInternal, R>,
  ): APIFuture<R> {
    const request = parseArgument(SaveWeightsForSamplerRequest, { model_id: this.modelId, ...fields });
    const path = '/api/v1/save_weights_for_sampler';
    const kind = kinds.SAVE_WEIGHTS_FOR_SAMPLER;
    return this.#request(path, SaveWeightsForSamplerRequest, request, kind, options, read);
  }

  /** One checked request in turn. */
  #request<S extends z.ZodType, T, R>(
    path: string,
    schema: S,
    request: object,
    kind: kinds.ResultKind<T>,
    options: CallOptions,
    read: Read<T, R>,
  ): APIFuture<R> {
    const call = (seq_id: number) => postRequest(path, schema, { ...request, seq_id } as z.input<S>);
    return this.#inTurn(1, call, kind, options, read);
  }

  #inTurn<T, R>(
    count: 0 | 1,
    call: (seqId: number) => Call,
    kind: kinds.ResultKind<T>,
    options: CallOptions,
    read: Read<T, R>,
  ): APIFuture<R> {
    this.#checkCall(options);
    const { backend } = this.#session;
    const turn = this.#turns.take(count, ([seqId = 0]) => submit(backend, call(seqId)));
    return new APIFuture(
      async (context) => read(await fetchResult(backend, await turn, kind, this.#queue, context)),
      options,
    );
  }

  #checkCall(options: CallOptions): void {
    options.signal?.throwIfAborted();
    this.#session.checkOpen();
    this.#turns.checkUnbroken();
  }

  /** Everything that can be wrong with a batch is found before its numbers are reserved. */
  #checkBatch(data: readonly (Datum | DatumParts)[], options: CallOptions): Datum[] {
    this.#checkCall(options);
    if (data.length === 0) throw new TypeError('data must hold at least one datum');
    return data.map((datum, index) => {
      if (datum.model_input.chunks.some((chunk) => chunk.type === 'image_asset_pointer')) {
        throw new TypeError(`data[${index}] has an image_asset_pointer: training takes the image itself`);
      }
      return checkDatum(datum, index);
    });
  }

  #pass(
    data: readonly (Datum | DatumParts)[],
    pass: Pass,
    options: CallOptions,
  ): APIFuture<ForwardBackwardOutput> {
    const checked: Pass = {
      ...pass,
      lossFn: parseArgument(LossFn, pass.lossFn, 'lossFn'),
      config: parseArgument(LossFnConfig.optional(), pass.config, 'lossFnConfig'),
    };
    const batch = this.#checkBatch(data, options);
    return this.#passes.run(batch, checked, options);
  }

  #runOnServer(
    data: readonly (Datum | DatumParts)[],
    handle: LossHandle,
    options: CallOptions,
  ): APIFuture<ForwardBackwardOutput> {
    if (handle.sessionId !== this.#session.id) {
      throw new TinkerError(
        `loss "${handle.name}" belongs to session ${handle.sessionId}, not ${this.#session.id}`,
      );
    }
    return this.forwardBackward(data, 'custom', { loss_id: handle.lossId }, options);
  }
}

import {
  CreateSamplingSessionRequest,
  CreateSamplingSessionResponse,
  GetSamplerResponse,
  ModelInput,
  SampleRequest,
  type SampleResponse,
  type SamplingParams,
  type TensorData,
} from '@anneal/types';
import type * as z from 'zod';
import { APIFuture, type FutureContext } from './core/api-future.ts';
import { APIResponseValidationError } from './core/errors.ts';
import type { ClientOptions } from './core/options.ts';
import { parseArgument } from './internal/parse-argument.ts';
import { DEFAULT_SAMPLING_RETRY, SampleRunner, type SamplingRetryConfig } from './internal/sample-runner.ts';
import { Sampler, type UnnumberedSample } from './internal/sampler.ts';
import { readHandle, type SamplerHandle, writeHandle } from './internal/sampler-handle.ts';
import type { Session } from './internal/session.ts';
import type { Telemetry } from './internal/telemetry.ts';
import { postRequest } from './internal/wire-request.ts';
import { loadTokenizer, type TokenizerOptions } from './tokenizer.ts';

/** Settings of a sampling client. */
export interface SamplingClientOptions {
  /** How failed samples are repeated; what is not named keeps its default. */
  retry?: Partial<SamplingRetryConfig>;
  /** Record what the `stable_reinforce` loss reads. */
  recordStabilityInfo?: boolean;
}

/** What to sample. */
export interface SampleOptions {
  prompt: ModelInput | readonly number[];
  samplingParams: z.input<typeof SamplingParams>;
  /** Default: 1. */
  numSamples?: number;
  /** Also score the prompt's tokens. */
  includePromptLogprobs?: boolean;
  /** Also give the k likeliest tokens at each prompt position. */
  topkPromptLogprobs?: number;
  /** Also give the k likeliest tokens at each sampled position. */
  topkSampleLogprobs?: number;
  /** Ids to score, int64 [prompt length - 1, K]: row i at prompt position i + 1, -1 skips a cell. */
  targetPromptLogprobs?: TensorData;
  /** Draw this many alternatives at each prompt position after the first. */
  promptAltTokensK?: number;
  /** Score only the last N prompt tokens. */
  promptLogprobsLastN?: number;
  signal?: AbortSignal;
}

/** Which weights to sample from. */
export interface SamplerSource {
  /** `tinker://…` */
  modelPath?: string;
  baseModel?: string;
}

const MODEL_PATH = /^(tinker|logits):\/\//;

/**
 * Draws samples from one fixed set of weights. Calls return at once; many can be under way.
 *
 * @example
 * const sampler = await service.createSamplingClient({ baseModel: 'Qwen/Qwen3-8B' });
 * const { sequences } = await sampler.sample({ prompt: tokens, samplingParams: { max_tokens: 32 } });
 */
export class SamplingClient {
  readonly #sampler: Sampler;
  readonly #baseModel: string;
  readonly #tokenizer: string;
  readonly #recordStabilityInfo: boolean;
  readonly #runner: SampleRunner;

  private constructor(
    sampler: Sampler,
    baseModel: string,
    options: SamplingClientOptions,
    tokenizer: string = baseModel,
  ) {
    const { config } = sampler.session.backend;
    this.#sampler = sampler;
    this.#baseModel = baseModel;
    this.#tokenizer = tokenizer;
    this.#recordStabilityInfo = options.recordStabilityInfo ?? false;
    this.#runner = new SampleRunner(config, { ...DEFAULT_SAMPLING_RETRY, ...options.retry });
  }

  /** Opens a sampler; used by `ServiceClient.createSamplingClient`. */
  static create(
    session: Session,
    { modelPath, baseModel }: SamplerSource,
    options: SamplingClientOptions & { signal?: AbortSignal } = {},
  ): APIFuture<SamplingClient> {
    if (!modelPath && !baseModel) throw new TypeError('give modelPath or baseModel');
    if (modelPath && !MODEL_PATH.test(modelPath)) {
      throw new TypeError(`modelPath "${modelPath}" must start with tinker:// or logits://`);
    }
    session.checkOpen();
    const call = postRequest('/api/v1/create_sampling_session', CreateSamplingSessionRequest, {
      session_id: session.id,
      sampling_session_seq_id: session.nextSamplerSeqId(),
      base_model: baseModel,
      model_path: modelPath,
    });
    return new APIFuture(async ({ signal }) => {
      const created = await session.backend.http.json({ ...call, signal }, CreateSamplingSessionResponse);
      return SamplingClient.open(session, created.sampling_session_id, baseModel, options);
    }, options);
  }

  /**
   * The client of a sampler that exists on the server.
   *
   * @param tokenizer what the server names as the base model's tokenizer, where that is known
   */
  static async open(
    session: Session,
    samplerId: string,
    baseModel: string | undefined,
    options: SamplingClientOptions = {},
    tokenizer?: string,
  ): Promise<SamplingClient> {
    const name = baseModel ?? (await fetchSampler(session, samplerId)).base_model;
    return new SamplingClient(new Sampler(session, samplerId, false), name, options, tokenizer);
  }

  /**
   * Another client of a sampler, from {@link getSamplerHandle} of this package or of the Python SDK.
   *
   * @throws TypeError when the text is no handle.
   */
  static fromSamplerHandle(
    handle: string,
    options: ClientOptions & SamplingClientOptions = {},
  ): SamplingClient {
    const { session, parsed } = readHandle(handle, options);
    const sampler = new Sampler(session, parsed.sampling_session_id, true);
    const recordStabilityInfo = options.recordStabilityInfo ?? parsed.record_stability_info;
    return new SamplingClient(sampler, parsed.base_model, { retry: options.retry, recordStabilityInfo });
  }

  /** A text from which another process makes a client of the same sampler. It holds no credentials. */
  getSamplerHandle(): string {
    const { backend, id, dynamicConfig } = this.#sampler.session;
    const handle: SamplerHandle = {
      session_id: id,
      sampling_session_id: this.#sampler.id,
      base_model: this.#baseModel,
      record_stability_info: this.#recordStabilityInfo,
      holder: {
        base_url: backend.options.baseUrl,
        default_headers_overrides: {},
        client_config: backend.config,
        client_dynamic_config: dynamicConfig,
        api_key: null,
      },
    };
    return writeHandle(handle);
  }

  /** Where usage events go, where the `telemetry` option is on. */
  getTelemetry(): Telemetry | undefined {
    return this.#sampler.session.telemetry;
  }

  /** Name of the base model. */
  getBaseModel(): string {
    return this.#baseModel;
  }

  /** The sampler's id on the server. */
  get samplerId(): string {
    return this.#sampler.id;
  }

  /** The base model's tokenizer, from where the server says it is, else from the hub, unless `options` says otherwise. */
  getTokenizer(options: TokenizerOptions = {}) {
    return loadTokenizer(this.#tokenizer, this.#sampler.session.backend.options.fetch, options);
  }

  /** Stops heartbeats of a client made by {@link fromSamplerHandle}. The sampler stays. */
  detach(): void {
    this.#sampler.session.detach();
  }

  /** Draws sequences that continue a prompt. A future that times out or is cancelled stops the sample. */
  sample(options: SampleOptions): APIFuture<SampleResponse> {
    return this.#run(this.#request(options), options.signal, (response) => response);
  }

  /** Logprob of each prompt token given those before it; `null` where not computed, always at 0. */
  computeLogprobs(
    prompt: ModelInput | readonly number[],
    options: { promptLogprobsLastN?: number; signal?: AbortSignal } = {},
  ): APIFuture<(number | null)[]> {
    const request = this.#request({
      prompt,
      samplingParams: { max_tokens: 1 },
      includePromptLogprobs: true,
      promptLogprobsLastN: options.promptLogprobsLastN,
    });
    return this.#run(request, options.signal, ({ prompt_logprobs }) => {
      if (prompt_logprobs) return prompt_logprobs;
      throw new APIResponseValidationError('the server sent no prompt_logprobs');
    });
  }

  /** Checks everything that can be wrong before a number is used up. */
  #request(options: SampleOptions): UnnumberedSample {
    const { prompt, targetPromptLogprobs: targets, promptLogprobsLastN } = options;
    if (promptLogprobsLastN !== undefined && !options.includePromptLogprobs) {
      throw new TypeError('promptLogprobsLastN needs includePromptLogprobs');
    }
    if (targets && (targets.dtype !== 'int64' || targets.shape?.length !== 2)) {
      throw new TypeError('targetPromptLogprobs must be int64 of shape [prompt length - 1, K]');
    }
    const request = {
      sampling_session_id: this.#sampler.id,
      num_samples: options.numSamples ?? 1,
      prompt: isModelInput(prompt) ? prompt : ModelInput.fromInts(prompt),
      sampling_params: options.samplingParams,
      prompt_logprobs: options.includePromptLogprobs ?? false,
      topk_prompt_logprobs: options.topkPromptLogprobs ?? 0,
      topk_sample_logprobs: options.topkSampleLogprobs ?? 0,
      target_prompt_logprobs: targets,
      prompt_alt_tokens_k: options.promptAltTokensK ?? 0,
      prompt_logprobs_last_n: promptLogprobsLastN,
      record_stability_info: this.#recordStabilityInfo,
    };
    parseArgument(SampleRequest, { ...request, seq_id: 0 });
    return request;
  }

  #run<T>(
    request: UnnumberedSample,
    outer: AbortSignal | undefined,
    read: (response: SampleResponse) => T,
  ): APIFuture<T> {
    outer?.throwIfAborted();
    this.#sampler.session.checkOpen();
    let index: bigint | undefined = this.#sampler.nextIndex();
    const attempt = (context: FutureContext) => {
      const own = index ?? this.#sampler.nextIndex();
      index = undefined;
      return this.#sampler.sample(request, own, context);
    };
    return new APIFuture(async (context) => read(await this.#runner.run(context, attempt)), {
      signal: outer,
      cancelOnTimeout: true,
    });
  }
}

function isModelInput(prompt: ModelInput | readonly number[]): prompt is ModelInput {
  return !Array.isArray(prompt);
}

/** The server's record of a sampler. */
async function fetchSampler(session: Session, samplerId: string): Promise<GetSamplerResponse> {
  return session.backend.http.json(
    { method: 'GET', path: `/api/v1/samplers/${samplerId}` },
    GetSamplerResponse,
  );
}

/** A server, its configuration for this client, and the bounds on what is under way. */
import { ClientConfigRequest, ClientConfigResponse } from '@anneal/types';
import { type ClientOptions, type ResolvedOptions, resolveOptions } from '../core/options.ts';
import { SDK_VERSION } from '../version.ts';
import { type Answer, bodyOf, Http, post } from './http.ts';
import { ByteBudget, Semaphore } from './semaphore.ts';
import { postRequest } from './wire-request.ts';

/** What may be under way at once, over all clients of a backend. */
export interface Limits {
  /** Result polls. */
  polls: Semaphore;
  /** Submissions of samples, and those allowed soon after the server asked for fewer. */
  sampleSubmits: Semaphore;
  throttledSampleSubmits: Semaphore;
  /** Bytes of prompts, of training requests, and of announced results. */
  promptBytes: ByteBudget;
  trainingBytes: ByteBudget;
  resultBytes: ByteBudget;
}

/** Submissions are answered at once, so few connections carry many of them. */
const SAMPLE_SUBMITS = 64;
const THROTTLED_SAMPLE_SUBMITS = 10;

export class Backend {
  readonly options: ResolvedOptions;
  readonly http: Http;
  readonly config: ClientConfigResponse;
  readonly limits: Limits;

  constructor(options: ResolvedOptions, http: Http, config: ClientConfigResponse) {
    this.options = options;
    this.http = http;
    this.config = config;
    http.billingPauseMs = config.billing_exception_max_pause_duration_sec * 1000;
    if (config.pjwt_auth_enabled) {
      const exchange = async (apiKey: string): Promise<unknown> => {
        const answer: Answer = await http.send(post('/api/v1/auth/token', {}, { apiKey }));
        return bodyOf(answer);
      };
      http.credentials.useTokens(exchange);
    }
    this.limits = {
      polls: new Semaphore(options.maxConcurrentPolls),
      sampleSubmits: new Semaphore(SAMPLE_SUBMITS),
      throttledSampleSubmits: new Semaphore(THROTTLED_SAMPLE_SUBMITS),
      promptBytes: new ByteBudget(config.sample_dispatch_bytes_semaphore_size),
      trainingBytes: new ByteBudget(config.fwdbwd_dispatch_bytes_semaphore_size),
      resultBytes: new ByteBudget(config.inflight_response_bytes_semaphore_size),
    };
  }
}

/** A backend that asks for its configuration when it is first needed, and again if that failed. */
export class LazyBackend {
  readonly options: ResolvedOptions;
  #ready: Promise<Backend> | undefined;

  constructor(options: ClientOptions) {
    this.options = resolveOptions(options);
  }

  get(): Promise<Backend> {
    this.#ready ??= this.#connect().catch((error) => {
      this.#ready = undefined;
      throw error;
    });
    return this.#ready;
  }

  async #connect(): Promise<Backend> {
    const http = new Http(this.options);
    const call = postRequest('/api/v1/client/config', ClientConfigRequest, { sdk_version: SDK_VERSION });
    return new Backend(this.options, http, await http.json(call, ClientConfigResponse));
  }
}

/** A session on the server: heartbeat, refreshed configuration, counters, cancelled samples. */
import {
  CancelFutureRequest,
  ClientConfigRequest,
  ClientDynamicConfigResponse,
  CreateSessionRequest,
  CreateSessionResponse,
  FinishSessionRequest,
  type SessionFinishReasonType,
  SessionHeartbeatRequest,
} from '@anneal/types';
import { TinkerError } from '../core/errors.ts';
import { SDK_VERSION } from '../version.ts';
import type { Backend } from './backend.ts';
import { isStatus, post } from './http.ts';
import { parseArgument } from './parse-argument.ts';
import { Semaphore } from './semaphore.ts';
import { every } from './sleep.ts';
import { Telemetry } from './telemetry.ts';
import { postRequest } from './wire-request.ts';

const HEARTBEAT_MS = 10_000;
const SILENCE_WORTH_A_WARNING_MS = 2 * 60_000;
const MIN_REFRESH_MS = 10_000;
const FINISH_PATIENCE_MS = 10_000;
const DYNAMIC_CONFIG_PATH = '/api/v1/client/dynamic_config';

/** What a session is created with. */
export interface SessionSettings {
  userMetadata?: Record<string, unknown>;
  projectId?: string;
  displayName?: string;
  tags?: string[];
}

function configCall() {
  return postRequest(
    DYNAMIC_CONFIG_PATH,
    ClientConfigRequest,
    { sdk_version: SDK_VERSION },
    { timeout: 10_000 },
  );
}

/** Servers without this endpoint have nothing to say. */
async function fetchDynamicConfig(backend: Backend): Promise<ClientDynamicConfigResponse> {
  try {
    return await backend.http.json(configCall(), ClientDynamicConfigResponse);
  } catch (error) {
    if (isStatus(error, 404)) return ClientDynamicConfigResponse.parse({});
    throw error;
  }
}

export class Session {
  readonly backend: Backend;
  readonly id: string;
  readonly telemetry: Telemetry | undefined;
  dynamicConfig: ClientDynamicConfigResponse;
  readonly #cancels: Semaphore;
  /** No sample is submitted before this moment (milliseconds of `performance.now()`). */
  sampleBackoffUntil = Number.NEGATIVE_INFINITY;
  readonly #timers: { stop(): void }[] = [];
  #heardAt = performance.now();
  #modelCount = 0;
  #samplerCount = 0;
  #customLossCount = 0;
  #closed: Promise<void> | undefined;

  constructor(backend: Backend, id: string, dynamicConfig: ClientDynamicConfigResponse) {
    this.backend = backend;
    this.id = id;
    this.dynamicConfig = dynamicConfig;
    this.#cancels = new Semaphore(dynamicConfig.sample_cancel_max_batch_size);
    this.telemetry = backend.options.telemetry ? new Telemetry(backend, id) : undefined;
    const heartbeat = every(
      () => HEARTBEAT_MS,
      () => this.#beat(() => heartbeat.stop()),
    );
    const refresh = every(
      () => Math.max(this.dynamicConfig.refresh_interval_sec * 1000, MIN_REFRESH_MS),
      () => this.#refresh(),
    );
    this.#timers.push(heartbeat, refresh);
  }

  /** Creates a session on the server. */
  static async create(backend: Backend, settings: SessionSettings): Promise<Session> {
    const dynamicConfig = await fetchDynamicConfig(backend);
    const call = postRequest('/api/v1/create_session', CreateSessionRequest, {
      tags: settings.tags ?? [],
      user_metadata: settings.userMetadata ?? {},
      sdk_version: SDK_VERSION,
      project_id: settings.projectId,
      display_name: settings.displayName,
    });
    const created = await backend.http.json(call, CreateSessionResponse);
    const { logger } = backend.options;
    if (created.info_message) logger.info(created.info_message);
    if (created.warning_message) logger.warn(created.warning_message);
    if (created.error_message) logger.error(created.error_message);
    return new Session(backend, created.session_id, dynamicConfig);
  }

  /** Numbers of the session's models, samplers and custom losses, from 0. */
  nextModelSeqId(): number {
    return this.#modelCount++;
  }

  nextSamplerSeqId(): number {
    return this.#samplerCount++;
  }

  nextCustomLossSeqId(): number {
    return this.#customLossCount++;
  }

  /** @throws TinkerError after {@link close}. */
  checkOpen(): void {
    if (this.#closed) throw new TinkerError(`session ${this.id} is closed: create another ServiceClient`);
  }

  /** Tells the server that nobody waits for a sample any more, where it wants to know. */
  async cancelSample(requestId: string): Promise<void> {
    if (!this.dynamicConfig.sample_cancel_enabled) return;
    const call = postRequest('/api/v1/cancel_future', CancelFutureRequest, { request_id: requestId });
    try {
      await this.#cancels.use(1, undefined, () => this.backend.http.send(call));
    } catch (error) {
      this.backend.options.logger.debug(`request ${requestId} was not cancelled: ${error}`);
    }
  }

  /** Ends the session on the server; the first reason stands. */
  close(type: SessionFinishReasonType, detail?: string): Promise<void> {
    this.#closed ??= this.#finish(type, detail);
    return this.#closed;
  }

  /** Stops what runs in the background without ending the session on the server. */
  detach(): void {
    for (const timer of this.#timers) timer.stop();
    this.#closed ??= Promise.resolve();
  }

  async #finish(type: SessionFinishReasonType, detail: string | undefined): Promise<void> {
    for (const timer of this.#timers) timer.stop();
    await this.telemetry?.close();
    const body = parseArgument(FinishSessionRequest, { reason: { type }, detail: detail ?? null });
    const call = post(`/api/v1/sessions/${this.id}/finish`, body, {
      maxElapsedMs: FINISH_PATIENCE_MS,
      timeout: FINISH_PATIENCE_MS,
    });
    await this.backend.http.send(call);
  }

  async #beat(stop: () => void): Promise<void> {
    const call = postRequest(
      '/api/v1/session_heartbeat',
      SessionHeartbeatRequest,
      { session_id: this.id },
      { timeout: 10_000 },
    );
    try {
      await this.backend.http.sendOnce(call);
      this.#heardAt = performance.now();
    } catch (error) {
      if (isStatus(error, 410)) stop();
      const silence = performance.now() - this.#heardAt;
      if (silence < SILENCE_WORTH_A_WARNING_MS) return;
      const { logger } = this.backend.options;
      logger.warn(
        `no heartbeat of session ${this.id} got through for ${Math.round(silence / 1000)} s: ${error}`,
      );
    }
  }

  /** Keeps what it knows when the server cannot be asked. */
  async #refresh(): Promise<void> {
    try {
      this.dynamicConfig = await fetchDynamicConfig(this.backend);
    } catch (error) {
      this.backend.options.logger.debug(`the dynamic configuration was not refreshed: ${error}`);
    }
  }
}

import {
  type AccessScope,
  type AuditLogResponse,
  type BillingUsageResponse,
  type Checkpoint,
  CheckpointArchiveUrlResponse,
  CheckpointsListResponse,
  type CurrentCheckpointStorageUsageResponse,
  ExternalWeightsUrlsResponse,
  GetSamplerResponse,
  GetServerCapabilitiesResponse,
  GetSessionResponse,
  ListSessionsResponse,
  MoveSessionRequest,
  ParsedCheckpointTinkerPath,
  SessionSearchRequest,
  SessionSearchResponse,
  type SessionSummary,
  SetCheckpointTtlRequest,
  TraceExportResponse,
  TrainingRun,
  TrainingRunsResponse,
  WeightsInfoRequest,
  WeightsInfoResponse,
  type WhoamiResponse,
} from '@anneal/types';
import type * as z from 'zod';
import { AdminClient } from './admin-client.ts';
import type { APIFuture } from './core/api-future.ts';
import { TinkerError } from './core/errors.ts';
import { type ClientOptions, readEnvironment } from './core/options.ts';
import { eachItem, type PageOptions } from './core/pagination.ts';
import { readClaims } from './internal/auth.ts';
import { LazyBackend } from './internal/backend.ts';
import { copyWeightsCall, copyWeightsResult } from './internal/copy-weights.ts';
import { post } from './internal/http.ts';
import { parseArgument } from './internal/parse-argument.ts';
import { RestCaller } from './internal/rest-caller.ts';
import { sleep } from './internal/sleep.ts';
import { postRequest } from './internal/wire-request.ts';
import type { CallOptions } from './training-client.ts';

/** Whose entries a list shows. */
export interface ScopeOptions extends CallOptions {
  /** Default: `owned`. */
  accessScope?: AccessScope;
}

const TRACE_POLL_MS = 5000;

/**
 * Training runs, checkpoints, samplers and sessions. Needs no session.
 *
 * @example
 * const rest = new RestClient();
 * for await (const run of rest.trainingRuns()) console.log(run.training_run_id, run.base_model);
 */
export class RestClient {
  readonly #rest: RestCaller;
  readonly #admin: AdminClient;

  constructor(options: ClientOptions | LazyBackend = {}) {
    const backend = options instanceof LazyBackend ? options : new LazyBackend(options);
    this.#rest = new RestCaller(backend);
    this.#admin = new AdminClient(backend);
  }

  /** The base models that the server offers. */
  getServerCapabilities(options: CallOptions = {}): APIFuture<GetServerCapabilitiesResponse> {
    return this.#rest.get('/get_server_capabilities', GetServerCapabilitiesResponse, options);
  }

  getTrainingRun(trainingRunId: string, options: ScopeOptions = {}): APIFuture<TrainingRun> {
    return this.#rest.get(`/training_runs/${trainingRunId}`, TrainingRun, options, scope(options));
  }

  /** The run that a checkpoint belongs to. */
  getTrainingRunByTinkerPath(path: string, options: ScopeOptions = {}): APIFuture<TrainingRun> {
    return this.getTrainingRun(ParsedCheckpointTinkerPath.fromTinkerPath(path).training_run_id, options);
  }

  /** What is needed to load a checkpoint: base model, rank, trained modules. */
  getWeightsInfoByTinkerPath(path: string, options: CallOptions = {}): APIFuture<WeightsInfoResponse> {
    const call = postRequest('/api/v1/weights_info', WeightsInfoRequest, { tinker_path: path });
    return this.#rest.send(call, WeightsInfoResponse, options);
  }

  /** One page of runs, newest first. */
  listTrainingRuns(
    options: ScopeOptions & PageOptions & { projectId?: string } = {},
  ): APIFuture<TrainingRunsResponse> {
    const query = { ...page(options, 20), ...scope(options), project_id: options.projectId };
    return this.#rest.get('/training_runs', TrainingRunsResponse, options, query);
  }

  /** All runs, newest first, a page at a time. */
  trainingRuns(
    options: ScopeOptions & { pageSize?: number; projectId?: string } = {},
  ): AsyncGenerator<TrainingRun, void, undefined> {
    return eachItem(options.pageSize ?? 100, async (at) => {
      const { training_runs: items, cursor } = await this.listTrainingRuns({ ...options, ...at });
      return { items, total: cursor.total_count };
    });
  }

  /** All checkpoints of a run. */
  listCheckpoints(trainingRunId: string, options: CallOptions = {}): APIFuture<CheckpointsListResponse> {
    return this.#rest.get(`/training_runs/${trainingRunId}/checkpoints`, CheckpointsListResponse, options);
  }

  /** One page of the caller's checkpoints. */
  listUserCheckpoints(options: CallOptions & PageOptions = {}): APIFuture<CheckpointsListResponse> {
    return this.#rest.get('/checkpoints', CheckpointsListResponse, options, page(options, 100));
  }

  /** All of the caller's checkpoints, a page at a time. */
  userCheckpoints(
    options: CallOptions & { pageSize?: number } = {},
  ): AsyncGenerator<Checkpoint, void, undefined> {
    return eachItem(options.pageSize ?? 100, async (at) => {
      const { checkpoints: items, cursor } = await this.listUserCheckpoints({ ...options, ...at });
      return { items, total: cursor?.total_count };
    });
  }

  /** `checkpointId` is kind and name, for example `weights/step-100`. */
  deleteCheckpoint(trainingRunId: string, checkpointId: string, options: CallOptions = {}): APIFuture<void> {
    return this.#rest.done({ method: 'DELETE', path: checkpointRoute(trainingRunId, checkpointId) }, options);
  }

  deleteCheckpointFromTinkerPath(path: string, options: CallOptions = {}): APIFuture<void> {
    return this.#rest.done({ method: 'DELETE', path: routeOf(path) }, options);
  }

  /** Lets others read a checkpoint. */
  publishCheckpointFromTinkerPath(path: string, options: CallOptions = {}): APIFuture<void> {
    return this.#rest.done({ method: 'POST', path: `${routeOf(path)}/publish` }, options);
  }

  unpublishCheckpointFromTinkerPath(path: string, options: CallOptions = {}): APIFuture<void> {
    return this.#rest.done({ method: 'DELETE', path: `${routeOf(path)}/publish` }, options);
  }

  /** Seconds from now, an hour to ten years; `null`: kept for ever. */
  setCheckpointTtlFromTinkerPath(
    path: string,
    ttlSeconds: number | null,
    options: CallOptions = {},
  ): APIFuture<void> {
    const body = parseArgument(SetCheckpointTtlRequest, { ttl_seconds: ttlSeconds });
    return this.#rest.done({ ...post(`${routeOf(path)}/ttl`, body), method: 'PUT' }, options);
  }

  /** Where the files of an exported checkpoint are; no API key is needed there. */
  getExternalWeightsUrls(path: string, options: CallOptions = {}): APIFuture<ExternalWeightsUrlsResponse> {
    if (ParsedCheckpointTinkerPath.fromTinkerPath(path).checkpoint_type !== 'external') {
      throw new TypeError(`"${path}" is no export: TrainingClient.saveWeightsExternal makes one`);
    }
    const route = `${routeOf(path)}/external_weights_urls`.slice('/api/v1'.length);
    return this.#rest.get(route, ExternalWeightsUrlsResponse, options);
  }

  /** Where a checkpoint can be fetched as one tar file, on servers that build archives. */
  getCheckpointArchiveUrlFromTinkerPath(
    path: string,
    options: CallOptions = {},
  ): APIFuture<CheckpointArchiveUrlResponse> {
    const route = `${routeOf(path)}/archive`.slice('/api/v1'.length);
    return this.#rest.get(route, CheckpointArchiveUrlResponse, options);
  }

  /** Copies a checkpoint into a project (default: `TINKER_PROJECT_ID`); gives the copy's path. */
  copyWeights(
    path: string,
    options: CallOptions & {
      destinationProjectId?: string;
      ttlSeconds?: number;
      weightsAccessToken?: string;
    } = {},
  ): APIFuture<string> {
    const project = options.destinationProjectId ?? readEnvironment('TINKER_PROJECT_ID');
    if (!project) throw new TypeError('give destinationProjectId or set TINKER_PROJECT_ID');
    const request = { source_path: path, destination_project_id: project, ttl_seconds: options.ttlSeconds };
    return this.#rest.run(options, (backend, signal) =>
      copyWeightsResult(backend, copyWeightsCall(request, options.weightsAccessToken, signal)),
    );
  }

  /** The server's record of a sampler. */
  getSampler(samplerId: string, options: CallOptions = {}): APIFuture<GetSamplerResponse> {
    return this.#rest.get(`/samplers/${samplerId}`, GetSamplerResponse, options);
  }

  getSession(sessionId: string, options: ScopeOptions = {}): APIFuture<GetSessionResponse> {
    return this.#rest.get(`/sessions/${sessionId}`, GetSessionResponse, options, scope(options));
  }

  /** One page of session ids. */
  listSessions(options: ScopeOptions & PageOptions = {}): APIFuture<ListSessionsResponse> {
    return this.#rest.get('/sessions', ListSessionsResponse, options, {
      ...page(options, 20),
      ...scope(options),
    });
  }

  /** All session ids, a page at a time. */
  sessions(options: ScopeOptions & { pageSize?: number } = {}): AsyncGenerator<string, void, undefined> {
    return eachItem(options.pageSize ?? 100, async (at) => {
      const { sessions: items } = await this.listSessions({ ...options, ...at });
      return { items };
    });
  }

  /** One page of the sessions that match, newest first. */
  searchSessions(
    request: z.input<typeof SessionSearchRequest> = {},
    options: CallOptions = {},
  ): APIFuture<SessionSearchResponse> {
    const call = postRequest('/api/v1/sessions/search', SessionSearchRequest, request);
    return this.#rest.send(call, SessionSearchResponse, options);
  }

  /** All sessions that match, a page at a time. */
  async *searchAllSessions(
    request: z.input<typeof SessionSearchRequest> = {},
    options: CallOptions = {},
  ): AsyncGenerator<SessionSummary, void, undefined> {
    let { cursor } = request;
    do {
      const found = await this.searchSessions({ ...request, cursor }, options);
      yield* found.sessions;
      cursor = found.next_cursor;
    } while (cursor);
  }

  /** Moves a session into a project. */
  assignSessionProject(sessionId: string, projectId: string, options: CallOptions = {}): APIFuture<void> {
    const body = parseArgument(MoveSessionRequest, { project_id: projectId });
    return this.#rest.done(
      { ...post(`/api/v1/sessions/${sessionId}/project`, body), method: 'PUT' },
      options,
    );
  }

  /** Exports a session's trace; gives its URL when it is ready. */
  exportSessionTrace(sessionId: string, options: CallOptions = {}): APIFuture<string> {
    const path = `/api/v1/sessions/${sessionId}/trace_export`;
    return this.#rest.run(options, async ({ http }, signal) => {
      for (;;) {
        const { status, url, error } = await http.json({ method: 'GET', path, signal }, TraceExportResponse);
        if (status === 'ready' && url) return url;
        if (status !== 'pending')
          throw new TinkerError(`the export of ${sessionId} failed: ${error ?? status}`);
        await sleep(TRACE_POLL_MS, signal);
      }
    });
  }

  /** Who the caller is, on servers that exchange API keys for tokens. */
  whoami(options: CallOptions = {}): APIFuture<WhoamiResponse> {
    return this.#rest.run(options, async ({ http: { credentials } }) => {
      const token = await credentials.header();
      if (!credentials.usesTokens && !token.startsWith('eyJ')) {
        throw new TinkerError(
          'this server identifies callers by API key alone, which says nothing about them',
        );
      }
      const { sub, org_id, email } = readClaims(token);
      return { user_urn: sub, org_urn: `tml:organization:${org_id}`, email: email || undefined };
    });
  }

  /** {@link AdminClient.getAuditLog} */
  getAuditLog(...args: Parameters<AdminClient['getAuditLog']>): APIFuture<AuditLogResponse> {
    return this.#admin.getAuditLog(...args);
  }

  /** {@link AdminClient.getBillingUsage} */
  getBillingUsage(...args: Parameters<AdminClient['getBillingUsage']>): APIFuture<BillingUsageResponse> {
    return this.#admin.getBillingUsage(...args);
  }

  /** {@link AdminClient.getCurrentCheckpointStorageUsage} */
  getCurrentCheckpointStorageUsage(
    ...args: Parameters<AdminClient['getCurrentCheckpointStorageUsage']>
  ): APIFuture<CurrentCheckpointStorageUsageResponse> {
    return this.#admin.getCurrentCheckpointStorageUsage(...args);
  }
}

function checkpointRoute(trainingRunId: string, checkpointId: string): string {
  return `/api/v1/training_runs/${trainingRunId}/checkpoints/${checkpointId}`;
}

function routeOf(path: string): string {
  const { training_run_id, checkpoint_id } = ParsedCheckpointTinkerPath.fromTinkerPath(path);
  return checkpointRoute(training_run_id, checkpoint_id);
}

function scope({ accessScope }: ScopeOptions): { access_scope: AccessScope } {
  return { access_scope: accessScope ?? 'owned' };
}

function page({ limit, offset }: PageOptions, fallback: number): { limit: number; offset: number } {
  return { limit: limit ?? fallback, offset: offset ?? 0 };
}

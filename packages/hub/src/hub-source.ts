// Models from the Hugging Face hub: only what serving needs, into the hub's shared cache.
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { HubApiError, type ListFileEntry, listFiles, modelInfo } from '@huggingface/hub';
import { pathExists, requireDiskSpace } from './cache-folder.ts';
import { shardsOfIndex, WEIGHTS_FILE, WEIGHTS_INDEX } from './checkpoint-folder.ts';
import { ChecksumError, downloadFile, HttpStatusError } from './download-file.ts';
import { SourceUnavailable } from './errors.ts';
import { HubCacheEntry } from './hub-cache.ts';
import type { HubSettings } from './hub-settings.ts';
import { formatBytes, type OnProgress } from './progress.ts';

export interface HubSnapshot {
  readonly folder: string;
  /** Commit. */
  readonly revision: string;
}

export interface HubRequest {
  readonly model: string;
  /** Branch, tag or commit. */
  readonly revision: string;
  readonly settings: HubSettings;
  readonly offline: boolean;
  readonly fetch: typeof fetch;
  readonly onProgress: OnProgress;
  readonly retryDelayMs: number;
}

/** Small files worth having, besides the weights. */
const WANTED =
  /^(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|chat_template|preprocessor_config|processor_config|video_preprocessor_config)\.json$|^(chat_template\.jinja|merges\.txt|tokenizer\.model)$|^additional_chat_templates\/[\w.-]+\.jinja$/;

/** How long the hub may take to answer a question about a model; then it counts as unreachable. */
const API_TIMEOUT_MS = 8_000;

/**
 * The snapshot folder of a model in the hub's cache, without asking the hub.
 *
 * @returns undefined when it is not complete there and the hub may be asked
 * @throws SourceUnavailable when it may not
 */
export async function findInHubCache(request: HubRequest): Promise<HubSnapshot | undefined> {
  const entry = new HubCacheEntry(request.settings.cacheDir, request.model);
  const cached = await entry.findSnapshot(request.revision);
  if (cached && cached.missing.length === 0) return { folder: cached.folder, revision: cached.commit };
  if (!request.offline) return undefined;
  const state = cached ? `its copy there lacks ${cached.missing.join(', ')}` : 'it is not there';
  throw new SourceUnavailable(entry.folder, `offline, so only the hub's cache was searched: ${state}`, {
    advice: 'Allow network access (unset HF_HUB_OFFLINE, drop the offline option) to download it.',
  });
}

/**
 * Downloads what is missing of a model into the hub's cache. One process at a time may do so for a model.
 *
 * @throws SourceUnavailable when the hub has no such model, refuses it, or cannot be reached
 */
export async function downloadFromHub(request: HubRequest): Promise<HubSnapshot> {
  try {
    return await downloadSnapshot(request, new HubCacheEntry(request.settings.cacheDir, request.model));
  } catch (error) {
    throw explain(error, request);
  }
}

async function downloadSnapshot(request: HubRequest, entry: HubCacheEntry): Promise<HubSnapshot> {
  const { model, revision, onProgress, settings } = request;
  onProgress({ type: 'message', source: 'hub', message: `Looking for ${model} on ${settings.endpoint}` });
  const api = { hubUrl: settings.endpoint, fetch: apiFetch(request) };
  const { sha: commit } = await modelInfo({ name: model, revision, additionalFields: ['sha'], ...api });
  const files = new Map<string, ListFileEntry>();
  for await (const file of listFiles({ repo: model, revision: commit, recursive: true, ...api })) {
    if (file.type === 'file') files.set(file.path, file);
  }
  const download = downloader(request, entry, commit);
  const small = [...files.values()].filter((file) => WANTED.test(file.path));
  if (!files.has('config.json')) throw noCheckpoint(request, 'config.json');
  for (const file of small) await download(file);
  const weights = await weightFiles(request, entry, commit, files, download);
  await announce(request, entry, weights);
  for (const file of weights) await download(file);
  await entry.writeRef(revision, commit);
  return { folder: entry.snapshotFolder(commit), revision: commit };
}

async function weightFiles(
  request: HubRequest,
  entry: HubCacheEntry,
  commit: string,
  files: ReadonlyMap<string, ListFileEntry>,
  download: (file: ListFileEntry) => Promise<void>,
): Promise<ListFileEntry[]> {
  const single = files.get(WEIGHTS_FILE);
  if (single) return [single];
  const index = files.get(WEIGHTS_INDEX);
  if (!index) throw noCheckpoint(request, WEIGHTS_FILE);
  await download(index);
  const text = await readFile(path.join(entry.snapshotFolder(commit), WEIGHTS_INDEX), 'utf8');
  return shardsOfIndex(text).map((shard) => {
    const file = files.get(shard);
    if (!file || path.basename(shard) !== shard) throw noCheckpoint(request, shard);
    return file;
  });
}

async function announce(request: HubRequest, entry: HubCacheEntry, weights: ListFileEntry[]): Promise<void> {
  const present = await Promise.all(weights.map((file) => pathExists(entry.blobPath(checksumOf(file).hex))));
  const bytes = weights.reduce((sum, file, i) => sum + (present[i] ? 0 : sizeOf(file)), 0);
  await requireDiskSpace(entry.folder, bytes, request.model);
  const message = `Downloading ${request.model} (${formatBytes(bytes)}) to ${entry.folder}`;
  request.onProgress({ type: 'message', source: 'hub', message });
}

function downloader(request: HubRequest, entry: HubCacheEntry, commit: string) {
  const { settings, model, onProgress } = request;
  return async (file: ListFileEntry): Promise<void> => {
    const checksum = checksumOf(file);
    const size = sizeOf(file);
    const target = entry.blobPath(checksum.hex);
    const report = (receivedBytes: number) =>
      onProgress({
        type: 'progress',
        source: 'hub',
        step: 'download',
        file: file.path,
        receivedBytes,
        totalBytes: size,
      });
    if (!(await pathExists(target))) {
      await downloadFile({
        ...{ target, size, checksum, onBytes: report },
        url: `${settings.endpoint}/${model}/resolve/${commit}/${file.path}`,
        fetch: authorized(request),
        retryDelayMs: request.retryDelayMs,
      });
    }
    await entry.link(checksum.hex, commit, file.path);
  };
}

function checksumOf(file: ListFileEntry): { kind: 'sha256' | 'git-sha1'; hex: string } {
  const checksum = file.lfs
    ? ({ kind: 'sha256', hex: file.lfs.oid } as const)
    : ({ kind: 'git-sha1', hex: file.oid ?? '' } as const);
  if (!/^([0-9a-f]{40}|[0-9a-f]{64})$/.test(checksum.hex)) {
    throw new Error(`${file.path}: the hub lists no usable checksum ("${checksum.hex}")`);
  }
  return checksum;
}

function sizeOf(file: ListFileEntry): number {
  return file.lfs?.size ?? file.size;
}

/** fetch with the token, which redirects to another host lose (the fetch standard drops the header). */
function authorized({ fetch: send, settings }: HubRequest): typeof fetch {
  return (input, init) => {
    const headers = new Headers(init?.headers);
    if (settings.token) headers.set('authorization', `Bearer ${settings.token}`);
    return send(input, { ...init, headers });
  };
}

function apiFetch(request: HubRequest): typeof fetch {
  const send = authorized(request);
  return (input, init) => send(input, { ...init, signal: AbortSignal.timeout(API_TIMEOUT_MS) });
}

function noCheckpoint({ settings, model }: HubRequest, file: string): SourceUnavailable {
  return new SourceUnavailable(`${settings.endpoint}/${model}`, `the repository has no ${file}`, {
    advice:
      'Only checkpoints with config.json and safetensors weights can be served; look for a converted one.',
  });
}

function explain(error: unknown, { settings, model }: HubRequest): unknown {
  const place = `${settings.endpoint}/${model}`;
  if (error instanceof HubApiError) return explainStatus(place, error.statusCode, undefined, settings, error);
  if (error instanceof HttpStatusError)
    return explainStatus(place, error.status, error.reason, settings, error);
  if (error instanceof ChecksumError) {
    const advice = 'Start again; if it stays, a proxy or mirror changes files on the way.';
    return new SourceUnavailable(place, error.message, { advice, cause: error });
  }
  const network = networkReason(error);
  if (network === undefined) return error;
  return new SourceUnavailable(place, `not reachable (${network})`, {
    advice: `Check the network, or set HF_ENDPOINT to a mirror, or download the model elsewhere and give its folder.`,
    cause: error,
  });
}

function explainStatus(
  place: string,
  status: number,
  reason: string | undefined,
  settings: HubSettings,
  cause: Error,
): SourceUnavailable {
  if (reason === 'GatedRepo' || status === 403) {
    const advice = `Accept the model's terms on ${place}, then set HF_TOKEN to a token of that account.`;
    return new SourceUnavailable(place, 'the model is gated: its owner asks you to accept terms', {
      advice,
      cause,
    });
  }
  if (status === 401 || status === 404) {
    const advice = settings.token
      ? 'Check the spelling (organisation/name), and that HF_TOKEN may read the model.'
      : 'Check the spelling (organisation/name); for a private model set HF_TOKEN.';
    return new SourceUnavailable(place, `no such model, or it is private (status ${status})`, {
      advice,
      cause,
    });
  }
  return new SourceUnavailable(place, `the hub answered with status ${status}`, {
    advice: 'Try again later.',
    cause,
  });
}

/** What went wrong on the network, or undefined for other errors. */
function networkReason(error: unknown): string | undefined {
  if (!(error instanceof Error)) return undefined;
  if (error.name === 'TimeoutError') return `no answer within ${API_TIMEOUT_MS / 1000} s`;
  const { cause } = error;
  if (error instanceof TypeError && error.message === 'fetch failed') {
    return cause instanceof Error && 'code' in cause ? String(cause.code) : String(cause ?? error.message);
  }
  return /terminated|closed early|nothing received/.test(error.message) ? error.message : undefined;
}

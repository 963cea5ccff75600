/** Uploads files to a model repository on the Hugging Face hub, in one commit. */
import { stat } from 'node:fs/promises';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { createRepo, fileExists, HubApiError, modelInfo, uploadFilesWithProgress } from '@huggingface/hub';
import { HubPushError } from './errors.ts';
import { type HubSettings, readHubSettings } from './hub-settings.ts';
import type { OnProgress } from './progress.ts';

export interface PushRequest {
  /** `OWNER/NAME`; made when it is not there. */
  readonly repository: string;
  /** Local files, by their path in the repository. */
  readonly files: Readonly<Record<string, string>>;
  /** Text of the model card, which is uploaded only where the repository has none. */
  readonly card: string;
  readonly message: string;
  /** Only its owner sees the repository. */
  readonly isPrivate: boolean;
  readonly onProgress: OnProgress;
  /** Default: the process's. */
  readonly env?: NodeJS.ProcessEnv;
}

export interface Pushed {
  repository: string;
  /** Where people look at it. */
  url: string;
  commit: string;
  files: string[];
}

const REPOSITORY = /^[\w.-]+\/[\w.-]+$/;
const CARD = 'README.md';
const EXISTS = 409;

/** @throws HubPushError that says what to do: name, token, visibility, network */
export async function pushFiles(request: PushRequest): Promise<Pushed> {
  const { repository } = request;
  const settings = await readHubSettings(request.env ?? process.env);
  if (!REPOSITORY.test(repository)) {
    throw new HubPushError(`"${repository}" is no repository on the hub: give OWNER/NAME`);
  }
  if (settings.offline) throw new HubPushError('HF_HUB_OFFLINE is set: unset it to upload');
  if (settings.token === undefined) {
    throw new HubPushError('a token is needed: set HF_TOKEN to one that may write, or run hf auth login');
  }
  const hub = { repo: repository, hubUrl: settings.endpoint, accessToken: settings.token };
  try {
    await openRepository(hub, request.isPrivate);
    const withCard = !(CARD in request.files) && !(await fileExists({ ...hub, path: CARD }));
    const files = [
      ...Object.entries(request.files).map(([name, file]) => ({
        path: name,
        content: pathToFileURL(path.resolve(file)),
      })),
      ...(withCard ? [{ path: CARD, content: new Blob([request.card]) }] : []),
    ];
    const commit = await upload({ ...hub, files, commitTitle: request.message }, request);
    return {
      repository,
      url: `${settings.endpoint}/${repository}`,
      commit,
      files: files.map((file) => file.path),
    };
  } catch (error) {
    throw explain(error, repository, settings);
  }
}

type Hub = { repo: string; hubUrl: string; accessToken: string };

/** Makes the repository, or checks that one that is there is seen by no more people than asked for. */
async function openRepository(hub: Hub, isPrivate: boolean): Promise<void> {
  try {
    await createRepo({ ...hub, visibility: isPrivate ? 'private' : 'public' });
  } catch (error) {
    if (!(error instanceof HubApiError) || error.statusCode !== EXISTS) throw error;
    const { hubUrl, accessToken, repo } = hub;
    const found = await modelInfo({ name: repo, hubUrl, accessToken });
    if (isPrivate && !found.private) {
      throw new HubPushError(`${repo} is there already and public: change that on the hub, or name another`);
    }
  }
}

/** @returns the commit's id */
async function upload(
  parameters: Parameters<typeof uploadFilesWithProgress>[0],
  { files, onProgress }: PushRequest,
): Promise<string> {
  const sizes = new Map<string, number>();
  for (const [name, file] of Object.entries(files)) sizes.set(name, (await stat(file)).size);
  const events = uploadFilesWithProgress(parameters);
  for (;;) {
    const next = await events.next();
    if (next.done) {
      if (!next.value) throw new HubPushError('the hub did not say which commit it made');
      return next.value.commit.oid;
    }
    if (next.value.event !== 'fileProgress' || next.value.state !== 'uploading') continue;
    const { path: file, progress } = next.value;
    const totalBytes = sizes.get(file) ?? 0;
    const receivedBytes = progress * totalBytes;
    onProgress({ type: 'progress', source: 'hub', step: 'upload', file, receivedBytes, totalBytes });
  }
}

function explain(error: unknown, repository: string, { endpoint }: HubSettings): unknown {
  if (error instanceof HubApiError) {
    const { statusCode: status, message } = error;
    const advice = [401, 403].includes(status)
      ? `check that HF_TOKEN is valid and may write to ${repository}`
      : 'try again later';
    return new HubPushError(`${endpoint} answered ${status} (${message}): ${advice}`, { cause: error });
  }
  if (error instanceof TypeError && error.message === 'fetch failed') {
    const { cause } = error;
    const reason = cause instanceof Error && 'code' in cause ? String(cause.code) : 'no answer';
    return new HubPushError(`${endpoint} is not reachable (${reason}): check the network, or HF_ENDPOINT`, {
      cause: error,
    });
  }
  // The library's word on a token that does not look like one.
  if (error instanceof TypeError) return new HubPushError(`HF_TOKEN: ${error.message}`, { cause: error });
  return error;
}

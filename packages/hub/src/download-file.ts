// Downloads one file: resumes what an earlier attempt left, retries when the connection breaks, verifies the checksum.
import { createHash, type Hash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { type FileHandle, mkdir, open, rename, rm } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

export interface Download {
  readonly url: string;
  readonly target: string;
  readonly size: number;
  /** SHA-256 of the content (Git LFS), or SHA-1 of Git's blob object (small files). */
  readonly checksum: { readonly kind: 'sha256' | 'git-sha1'; readonly hex: string };
  readonly fetch: typeof fetch;
  readonly onBytes: (receivedBytes: number) => void;
  /** Wait after the first failure, doubled after each further one. */
  readonly retryDelayMs: number;
}

/** The server answered with a status other than success. */
export class HttpStatusError extends Error {
  override readonly name = 'HttpStatusError';
  readonly status: number;
  /** The hub's reason, such as `GatedRepo` (header X-Error-Code). */
  readonly reason: string | undefined;

  constructor(url: string, response: Response) {
    super(`${url} answered ${response.status} ${response.statusText}`.trim());
    this.status = response.status;
    this.reason = response.headers.get('x-error-code') ?? undefined;
  }
}

/** The bytes received are not those that were promised. What was received has been deleted. */
export class ChecksumError extends Error {
  override readonly name = 'ChecksumError';
}

/** Failures in a row, without a byte received in between, after which a download is given up. */
const MAX_FAILURES = 5;

/** A connection that delivers nothing for this long is taken as broken. */
const STALL_MS = 60_000;

/**
 * Downloads to `target`, which appears only when complete and verified. Received parts are kept beside it as
 * `.anneal.incomplete` and continued by the next call. One process at a time may download to a target.
 *
 * @throws ChecksumError, HttpStatusError, or the last network error
 */
export async function downloadFile(download: Download): Promise<void> {
  const incomplete = `${download.target}.anneal.incomplete`;
  await mkdir(path.dirname(incomplete), { recursive: true });
  const handle = await open(incomplete, 'a+');
  try {
    const state = await resume(handle, incomplete, download);
    await receiveAll(handle, state, download);
    verify(state, download);
    await handle.sync();
  } catch (error) {
    await handle.close();
    if (error instanceof ChecksumError) await rm(incomplete, { force: true });
    throw error;
  }
  await handle.close();
  await rename(incomplete, download.target);
}

interface State {
  received: number;
  hash: Hash;
}

function newHash({ checksum, size }: Download): Hash {
  return checksum.kind === 'sha256' ? createHash('sha256') : createHash('sha1').update(`blob ${size}\0`);
}

async function resume(handle: FileHandle, file: string, download: Download): Promise<State> {
  const state = { received: (await handle.stat()).size, hash: newHash(download) };
  if (state.received > download.size) {
    await restart(handle, state, download);
  } else if (state.received > 0) {
    for await (const chunk of createReadStream(file)) state.hash.update(chunk);
  }
  return state;
}

async function restart(handle: FileHandle, state: State, download: Download): Promise<void> {
  await handle.truncate(0);
  state.received = 0;
  state.hash = newHash(download);
}

async function receiveAll(handle: FileHandle, state: State, download: Download): Promise<void> {
  let failures = 0;
  while (state.received < download.size) {
    const before = state.received;
    try {
      await receive(handle, state, download);
      if (state.received < download.size) throw new Error(`${download.url}: the connection closed early`);
    } catch (error) {
      if (error instanceof ChecksumError || isFinal(error)) throw error;
      failures = state.received > before ? 1 : failures + 1;
      if (failures >= MAX_FAILURES) throw error;
      await sleep(download.retryDelayMs * 2 ** (failures - 1));
    }
  }
}

/** Client errors stay what they are when asked again, except for timeouts and rate limits. */
function isFinal(error: unknown): boolean {
  if (!(error instanceof HttpStatusError)) return false;
  return error.status < 500 && error.status !== 408 && error.status !== 429;
}

async function receive(handle: FileHandle, state: State, download: Download): Promise<void> {
  const stall = new AbortController();
  const abort = () => stall.abort(new Error(`${download.url}: nothing received for ${STALL_MS / 1000} s`));
  const timer = setTimeout(abort, STALL_MS);
  try {
    const headers: Record<string, string> = { 'accept-encoding': 'identity' };
    if (state.received > 0) headers.range = `bytes=${state.received}-`;
    const response = await download.fetch(download.url, { headers, signal: stall.signal });
    if (!response.ok || !response.body) throw new HttpStatusError(download.url, response);
    if (response.status !== 206 && state.received > 0) await restart(handle, state, download);
    for await (const chunk of response.body) {
      timer.refresh();
      await append(handle, state, chunk, download);
    }
  } finally {
    clearTimeout(timer);
  }
}

async function append(
  handle: FileHandle,
  state: State,
  chunk: Uint8Array,
  download: Download,
): Promise<void> {
  if (state.received + chunk.byteLength > download.size) {
    throw new ChecksumError(`${download.url}: more than the ${download.size} bytes that the hub lists`);
  }
  await handle.appendFile(chunk);
  state.hash.update(chunk);
  state.received += chunk.byteLength;
  download.onBytes(state.received);
}

function verify(state: State, download: Download): void {
  const { kind, hex } = download.checksum;
  const found = state.hash.digest('hex');
  if (found === hex) return;
  throw new ChecksumError(
    `${download.url}: ${kind} of the received file is ${found}, but the hub lists ${hex}`,
  );
}

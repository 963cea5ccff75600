import { Readable } from 'node:stream';
import type { ByteRange, CheckpointKey, Store, StoredCheckpoint, StoredFile } from '@anneal/store';
import { ApiError } from '../errors.ts';
import { sessionTrace } from '../services/session-trace.ts';
import type { SignedLinks } from './signed-links.ts';
import { streamTar, tarSize } from './tar.ts';

/** Something to download: its size is known before a byte of it is read. */
export interface Download {
  name: string;
  size: number;
  type: string;
  open(range?: ByteRange): Promise<Readable>;
}

const ARCHIVED = ['adapter_model.safetensors', 'adapter_config.json'];

/** Prefix of the routes that need a signature instead of a key. */
export const DOWNLOADS = '/api/v1/downloads';

/** Checkpoint files over HTTP, through links that need no key. */
export class Downloads {
  readonly #store: Store;
  readonly #links: SignedLinks;

  constructor(store: Store, links: SignedLinks) {
    this.#store = store;
    this.#links = links;
  }

  /** One link for each file of an exported checkpoint. */
  fileLinks(checkpoint: StoredCheckpoint, baseUrl: string): { urls: Record<string, string>; expires: Date } {
    const expires = this.#links.expiry(Date.now());
    const urls = checkpoint.files.map(({ name }) => {
      const path = `${pathTo(checkpoint)}/files/${encodeURIComponent(name)}`;
      return [name, `${baseUrl}${path}?${this.#links.sign(path, expires)}`];
    });
    return { urls: Object.fromEntries(urls), expires: new Date(expires) };
  }

  /** The link to a checkpoint's adapter as a tar. */
  archiveLink(checkpoint: StoredCheckpoint, baseUrl: string): { url: string; expires: Date } {
    const expires = this.#links.expiry(Date.now());
    const path = `${pathTo(checkpoint)}/archive.tar`;
    return { url: `${baseUrl}${path}?${this.#links.sign(path, expires)}`, expires: new Date(expires) };
  }

  /** The link to a session's requests on a time line. */
  traceLink(sessionId: string, baseUrl: string): string {
    const path = `${DOWNLOADS}/sessions/${encodeURIComponent(sessionId)}/trace.json`;
    return `${baseUrl}${path}?${this.#links.sign(path, this.#links.expiry(Date.now()))}`;
  }

  verify(path: string, query: { expires?: string | undefined; signature?: string | undefined }): void {
    this.#links.verify(path, query);
  }

  async file(key: CheckpointKey, name: string): Promise<Download> {
    const checkpoint = await this.#find(key);
    const file = checkpoint.files.find((candidate) => candidate.name === name);
    if (!file) throw new ApiError('not_found', `The checkpoint has no file "${name}"`);
    const open = (range?: ByteRange): Promise<Readable> =>
      this.#store.blobs.read(checkpoint.blob, name, range);
    return { name, size: file.size, type: 'application/octet-stream', open };
  }

  async archive(key: CheckpointKey): Promise<Download> {
    const checkpoint = await this.#find(key);
    const files = archivedFiles(checkpoint);
    const modified = new Date(checkpoint.createdAt);
    const read = (file: StoredFile): Promise<Readable> => this.#store.blobs.read(checkpoint.blob, file.name);
    return {
      name: `${checkpoint.name}.tar`,
      size: tarSize(files),
      type: 'application/x-tar',
      open: async (range) => streamTar(files, modified, read, range),
    };
  }

  async trace(sessionId: string): Promise<Download> {
    const session = await this.#store.sessions.get(sessionId);
    if (!session) throw new ApiError('not_found', `session_id "${sessionId}" is unknown`);
    const bytes = await sessionTrace(this.#store, session);
    const open = async ({ start, end }: ByteRange = { start: 0, end: bytes.length - 1 }): Promise<Readable> =>
      Readable.from([bytes.subarray(start, end + 1)]);
    return { name: `${sessionId}.json`, size: bytes.length, type: 'application/json', open };
  }

  async #find(key: CheckpointKey): Promise<StoredCheckpoint> {
    const checkpoint = await this.#store.checkpoints.get(key);
    if (!checkpoint) throw new ApiError('not_found', 'The checkpoint was deleted');
    return checkpoint;
  }
}

/** The adapter of a checkpoint; encrypted exports go whole. */
function archivedFiles(checkpoint: StoredCheckpoint): StoredFile[] {
  const adapter = checkpoint.files.filter(({ name }) => ARCHIVED.includes(name));
  return adapter.length > 0 ? adapter : checkpoint.files;
}

function pathTo({ runId, kind, name }: CheckpointKey): string {
  return `${DOWNLOADS}/${encodeURIComponent(runId)}/${kind}/${encodeURIComponent(name)}`;
}

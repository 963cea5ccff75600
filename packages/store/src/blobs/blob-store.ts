import type { Readable } from 'node:stream';

/** Bytes of a file from `start` to `end`, both included, as in an HTTP range. */
export interface ByteRange {
  start: number;
  end: number;
}

/**
 * Folders of large files under opaque keys. Written once, never changed: new content gets a new key. Nothing above this
 * interface knows where they are.
 */
export interface BlobStore {
  /** A new empty local folder in which to prepare content. */
  scratch(): Promise<string>;
  /** Moves a prepared local folder to `key`; after it resolves, the content is durable. */
  put(key: string, folder: string): Promise<void>;
  /** A local folder with the content of `key`, for reading only. */
  local(key: string): Promise<string>;
  /** @throws BlobMissingError when there is no such file. */
  read(key: string, file: string, range?: ByteRange): Promise<Readable>;
  /** Removes a folder; one that does not exist is no error. */
  delete(key: string): Promise<void>;
  close(): Promise<void>;
}

/** A stored file that should be there is not. */
export class BlobMissingError extends Error {
  override readonly name = 'BlobMissingError';

  constructor(key: string, file?: string, options?: ErrorOptions) {
    super(`Stored content ${file ? `${key}/${file}` : key} is missing`, options);
  }
}

import { createReadStream } from 'node:fs';
import { mkdir, mkdtemp, open, readdir, rename, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { Readable } from 'node:stream';
import { BlobMissingError, type BlobStore, type ByteRange } from './blob-store.ts';

/** Blobs in a local folder: prepared beside their place, synced, then renamed. */
export class LocalBlobs implements BlobStore {
  readonly #root: string;
  readonly #scratch: string;

  private constructor(root: string) {
    this.#root = join(root, 'blobs');
    this.#scratch = join(root, 'scratch');
  }

  /** For the process that has the folder to itself: also clears what an earlier one left half written. */
  static async open(root: string): Promise<LocalBlobs> {
    await rm(new LocalBlobs(root).#scratch, { recursive: true, force: true });
    return await LocalBlobs.openBeside(root);
  }

  /** For a command beside a running server, whose half-written content stays. */
  static async openBeside(root: string): Promise<LocalBlobs> {
    const blobs = new LocalBlobs(root);
    await mkdir(blobs.#scratch, { recursive: true });
    await mkdir(blobs.#root, { recursive: true });
    return blobs;
  }

  scratch(): Promise<string> {
    return mkdtemp(join(this.#scratch, 'new-'));
  }

  async put(key: string, folder: string): Promise<void> {
    await syncFolder(folder);
    const target = this.#path(key);
    await mkdir(dirname(target), { recursive: true });
    await rename(folder, target);
    await syncEntry(dirname(target));
  }

  async local(key: string): Promise<string> {
    const folder = this.#path(key);
    await stat(folder).catch((cause) => {
      throw new BlobMissingError(key, undefined, { cause });
    });
    return folder;
  }

  async read(key: string, file: string, range?: ByteRange): Promise<Readable> {
    const path = join(this.#path(key), file);
    await stat(path).catch((cause) => {
      throw new BlobMissingError(key, file, { cause });
    });
    return createReadStream(path, range);
  }

  async delete(key: string): Promise<void> {
    await rm(this.#path(key), { recursive: true, force: true });
  }

  async close(): Promise<void> {}

  #path(key: string): string {
    return join(this.#root, key);
  }
}

async function syncFolder(folder: string): Promise<void> {
  for (const entry of await readdir(folder)) await syncEntry(join(folder, entry));
  await syncEntry(folder);
}

async function syncEntry(path: string): Promise<void> {
  const handle = await open(path, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

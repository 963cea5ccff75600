import { createReadStream, createWriteStream } from 'node:fs';
import { mkdir, mkdtemp, readdir, rename, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import {
  DeleteObjectsCommand,
  GetObjectCommand,
  HeadBucketCommand,
  paginateListObjectsV2,
  S3Client,
} from '@aws-sdk/client-s3';
import { Upload } from '@aws-sdk/lib-storage';
import { BlobMissingError, type BlobStore, type ByteRange } from './blob-store.ts';

export interface S3Options {
  bucket: string;
  /** In front of every key. */
  prefix: string;
  region: string;
  /** Of an S3-compatible service; absent: AWS. Credentials come from the environment, as the AWS SDK finds them. */
  endpoint?: string;
  /** Local folder for content that is being prepared, and for copies of what was read. */
  cacheDir: string;
  /** Copies that are kept. */
  maxCopies?: number;
}

const DEFAULT_COPIES = 32;
const DELETE_BATCH = 1000;

/** Blobs in an S3 bucket. Whoever needs a folder gets a local copy, of which the latest few are kept. */
export class S3Blobs implements BlobStore {
  readonly #client: S3Client;
  readonly #options: S3Options;
  readonly #scratch: string;
  /** By key, least recently used first. */
  readonly #copies = new Map<string, Promise<string>>();

  private constructor(options: S3Options) {
    this.#options = options;
    this.#scratch = join(options.cacheDir, 'scratch');
    const { endpoint, region } = options;
    this.#client = new S3Client({
      region,
      ...(endpoint === undefined ? {} : { endpoint, forcePathStyle: true }),
      // Services other than AWS do not all know the newer checksums.
      requestChecksumCalculation: 'WHEN_REQUIRED',
      responseChecksumValidation: 'WHEN_REQUIRED',
    });
  }

  /**
   * Checks that the bucket can be reached.
   *
   * @throws Error that names the bucket.
   */
  static async open(options: S3Options): Promise<S3Blobs> {
    const blobs = new S3Blobs(options);
    const { bucket, cacheDir } = options;
    try {
      await blobs.#client.send(new HeadBucketCommand({ Bucket: bucket }));
    } catch (cause) {
      throw new Error(`The S3 bucket "${bucket}" cannot be reached: ${(cause as Error).message}`, { cause });
    }
    await rm(cacheDir, { recursive: true, force: true });
    await mkdir(blobs.#scratch, { recursive: true });
    return blobs;
  }

  scratch(): Promise<string> {
    return mkdtemp(join(this.#scratch, 'new-'));
  }

  async put(key: string, folder: string): Promise<void> {
    for (const name of await readdir(folder)) {
      const Body = createReadStream(join(folder, name));
      const params = { Bucket: this.#options.bucket, Key: this.#objectKey(key, name), Body };
      await new Upload({ client: this.#client, params }).done();
    }
    await rm(folder, { recursive: true });
  }

  async local(key: string): Promise<string> {
    const copy = this.#copies.get(key) ?? this.#download(key);
    this.#copies.delete(key);
    this.#copies.set(key, copy);
    try {
      return await copy;
    } catch (error) {
      this.#copies.delete(key);
      throw error;
    } finally {
      await this.#dropOldCopies();
    }
  }

  async read(key: string, file: string, range?: ByteRange): Promise<Readable> {
    const Range = range && `bytes=${range.start}-${range.end}`;
    const target = { Bucket: this.#options.bucket, Key: this.#objectKey(key, file), Range };
    try {
      const { Body } = await this.#client.send(new GetObjectCommand(target));
      return Body as Readable;
    } catch (cause) {
      if ((cause as Error).name !== 'NoSuchKey') throw cause;
      throw new BlobMissingError(key, file, { cause });
    }
  }

  async delete(key: string): Promise<void> {
    const Bucket = this.#options.bucket;
    const names = await this.#names(key);
    for (let start = 0; start < names.length; start += DELETE_BATCH) {
      const batch = names.slice(start, start + DELETE_BATCH);
      const Objects = batch.map((name) => ({ Key: this.#objectKey(key, name) }));
      await this.#client.send(new DeleteObjectsCommand({ Bucket, Delete: { Objects } }));
    }
    await this.#dropCopy(key);
  }

  async close(): Promise<void> {
    this.#client.destroy();
  }

  async #download(key: string): Promise<string> {
    const names = await this.#names(key);
    if (names.length === 0) throw new BlobMissingError(key);
    const folder = await this.scratch();
    for (const name of names) {
      await pipeline(await this.read(key, name), createWriteStream(join(folder, name)));
    }
    const target = join(this.#options.cacheDir, 'copies', key);
    await mkdir(dirname(target), { recursive: true });
    await rename(folder, target);
    return target;
  }

  async #names(key: string): Promise<string[]> {
    const Prefix = `${this.#objectKey(key, '')}`;
    const names: string[] = [];
    const pages = paginateListObjectsV2({ client: this.#client }, { Bucket: this.#options.bucket, Prefix });
    for await (const page of pages) {
      for (const { Key } of page.Contents ?? []) if (Key) names.push(Key.slice(Prefix.length));
    }
    return names;
  }

  async #dropOldCopies(): Promise<void> {
    const limit = this.#options.maxCopies ?? DEFAULT_COPIES;
    while (this.#copies.size > limit) {
      const [oldest] = this.#copies.keys();
      if (oldest === undefined) return;
      await this.#dropCopy(oldest);
    }
  }

  async #dropCopy(key: string): Promise<void> {
    const copy = this.#copies.get(key);
    this.#copies.delete(key);
    const folder = await copy?.catch(() => undefined);
    if (folder) await rm(folder, { recursive: true, force: true });
  }

  #objectKey(key: string, file: string): string {
    const { prefix } = this.#options;
    return `${prefix}${prefix && !prefix.endsWith('/') ? '/' : ''}${key}/${file}`;
  }
}

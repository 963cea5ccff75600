/** Opens the database and the files that a configuration names. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import {
  type BlobStore,
  createStore,
  type Database,
  DatabaseInUseError,
  LocalBlobs,
  openPostgres,
  openS3Blobs,
  openSqlite,
  type Store,
} from '@anneal/store';
import type { ServerConfig } from './config.ts';
import { StartError } from './start-error.ts';

/**
 * For the server, which has them to itself.
 *
 * @throws StartError when another server works on the database.
 */
export async function openStore(config: ServerConfig): Promise<Store> {
  const database = await openDatabase(config);
  try {
    await database.claim();
    const dataDir = resolve(config.dataDir);
    const cacheDir = join(dataDir, 's3-cache');
    const blobs = (await openBucket(config, cacheDir)) ?? (await LocalBlobs.open(dataDir));
    return createStore(database, blobs);
  } catch (error) {
    await database.close();
    if (!(error instanceof DatabaseInUseError)) throw error;
    const message =
      'databaseUrl: another Anneal server works on this database; give each server one of its own';
    throw new StartError(message, { cause: error });
  }
}

/** What a command needs to know to find a server's store. */
export type StoreConfig = Pick<
  ServerConfig,
  'dataDir' | 'databaseUrl' | 'blobStore' | 's3Bucket' | 's3Prefix' | 's3Region' | 's3Endpoint'
>;

/** Runs `work` on the store of a server that may be running: nothing that it works on is cleared. */
export async function withStoreBeside<T>(
  config: StoreConfig,
  work: (store: Store) => Promise<T>,
): Promise<T> {
  const cacheDir = await mkdtemp(join(tmpdir(), 'anneal-s3-'));
  const database = await openDatabase(config);
  let blobs: BlobStore | undefined;
  try {
    blobs = (await openBucket(config, cacheDir)) ?? (await LocalBlobs.openBeside(resolve(config.dataDir)));
    return await work(createStore(database, blobs));
  } finally {
    await blobs?.close();
    await database.close();
    await rm(cacheDir, { recursive: true, force: true });
  }
}

function openDatabase({ databaseUrl, dataDir }: StoreConfig): Promise<Database> {
  return databaseUrl ? openPostgres(databaseUrl) : openSqlite(join(resolve(dataDir), 'anneal.sqlite'));
}

async function openBucket(config: StoreConfig, cacheDir: string): Promise<BlobStore | undefined> {
  if (config.blobStore === 'fs') return undefined;
  const { s3Bucket: bucket, s3Prefix: prefix, s3Region: region, s3Endpoint: endpoint } = config;
  if (bucket === undefined) throw new StartError('s3Bucket: it is needed with blobStore s3');
  const place = endpoint === undefined ? {} : { endpoint };
  return await openS3Blobs({ bucket, prefix, region, cacheDir, ...place });
}

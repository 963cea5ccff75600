import { randomUUID } from 'node:crypto';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { BlobMissingError, type BlobStore, LocalBlobs, openS3Blobs } from '../index.ts';

interface S3Server {
  run(): Promise<{ port: number }>;
  close(): Promise<void>;
}

const require = createRequire(import.meta.url);
const S3rver: new (options: object) => S3Server = require('s3rver');

let root: string;
let s3: S3Server;
let endpoint: string;

beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'anneal-blobs-'));
  const configureBuckets = [{ name: 'anneal' }];
  s3 = new S3rver({
    port: 0,
    address: '127.0.0.1',
    silent: true,
    directory: join(root, 's3'),
    configureBuckets,
  });
  endpoint = `http://127.0.0.1:${(await s3.run()).port}`;
  process.env.AWS_ACCESS_KEY_ID = 'S3RVER';
  process.env.AWS_SECRET_ACCESS_KEY = 'S3RVER';
});
afterAll(async () => {
  await s3.close();
  await rm(root, { recursive: true });
});

function openS3(bucket = 'anneal'): Promise<BlobStore> {
  const cacheDir = join(root, randomUUID());
  return openS3Blobs({ bucket, prefix: 'here', region: 'us-east-1', endpoint, cacheDir, maxCopies: 2 });
}

const stores: [string, () => Promise<BlobStore>][] = [
  ['a local folder', () => LocalBlobs.open(join(root, randomUUID()))],
  ['an S3 bucket', () => openS3()],
];

async function put(blobs: BlobStore, key: string, files: Record<string, string>): Promise<void> {
  const folder = await blobs.scratch();
  for (const [name, content] of Object.entries(files)) await writeFile(join(folder, name), content);
  await blobs.put(key, folder);
}

describe.each(stores)('in %s', (_name, open) => {
  test('what is put comes back whole, in part, and as a local folder', async () => {
    const blobs = await open();
    await put(blobs, 'checkpoints/a', { one: 'abcdef', two: 'x'.repeat(100_000) });
    expect(await text(await blobs.read('checkpoints/a', 'one'))).toBe('abcdef');
    expect(await text(await blobs.read('checkpoints/a', 'one', { start: 1, end: 3 }))).toBe('bcd');
    const folder = await blobs.local('checkpoints/a');
    expect((await readdir(folder)).sort()).toEqual(['one', 'two']);
    expect(await readFile(join(folder, 'two'), 'utf8')).toHaveLength(100_000);
    await blobs.close();
  });

  test('a deleted folder is gone, and deleting again is no error', async () => {
    const blobs = await open();
    await put(blobs, 'checkpoints/b', { one: '1' });
    await put(blobs, 'checkpoints/bb', { one: '2' });
    await blobs.local('checkpoints/b');
    await blobs.delete('checkpoints/b');
    await blobs.delete('checkpoints/b');
    await expect(blobs.local('checkpoints/b')).rejects.toThrow(BlobMissingError);
    await expect(blobs.read('checkpoints/b', 'one')).rejects.toThrow(BlobMissingError);
    expect(await text(await blobs.read('checkpoints/bb', 'one'))).toBe('2');
    await blobs.close();
  });
});

test('only the latest copies of a bucket are kept, and older ones are fetched again', async () => {
  const blobs = await openS3();
  for (const name of ['a', 'b', 'c']) await put(blobs, `copies/${name}`, { file: name });
  const [a] = [await blobs.local('copies/a'), await blobs.local('copies/b'), await blobs.local('copies/c')];
  await expect(readdir(a)).rejects.toThrow();
  expect(await readFile(join(await blobs.local('copies/a'), 'file'), 'utf8')).toBe('a');
  const both = await Promise.all([blobs.local('copies/b'), blobs.local('copies/b')]);
  expect(both[0]).toBe(both[1]);
  await blobs.close();
});

test('a bucket that cannot be reached is named', async () => {
  await expect(openS3('missing')).rejects.toThrow('"missing"');
});

import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import type { StoredFile } from '@anneal/store';

/** Names, sizes and SHA-256 digests of the files of a folder, by name. */
export async function describeFolder(folder: string): Promise<StoredFile[]> {
  const names = (await readdir(folder)).sort();
  return await Promise.all(names.map((name) => describeFile(folder, name)));
}

async function describeFile(folder: string, name: string): Promise<StoredFile> {
  const path = join(folder, name);
  const hash = createHash('sha256');
  await pipeline(createReadStream(path), hash);
  return { name, size: (await stat(path)).size, sha256: hash.digest('hex') };
}

/** What differs from the manifest, in words; undefined when nothing does. */
export async function findDamage(folder: string, files: StoredFile[]): Promise<string | undefined> {
  for (const expected of files) {
    const found = await describeFile(folder, expected.name).catch(() => undefined);
    if (!found) return `${expected.name} is missing`;
    if (found.size !== expected.size) {
      return `${expected.name} has ${found.size} bytes instead of ${expected.size}`;
    }
    if (found.sha256 !== expected.sha256) return `the content of ${expected.name} has changed`;
  }
  return undefined;
}

/**
 * A finished folder in the cache. It is made under another name and renamed, so it is there whole or not at all; its
 * manifest of file sizes also catches what a crash of the machine or a clean-up tool did to it later.
 */
import { readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { systemErrorCode } from './errors.ts';

const MANIFEST = 'manifest.json';

interface Manifest {
  /** Size in bytes by path inside the folder. */
  files: Record<string, number>;
}

export async function isComplete(folder: string): Promise<boolean> {
  try {
    const manifest = JSON.parse(await readFile(path.join(folder, MANIFEST), 'utf8')) as Manifest;
    const sizes = await Promise.all(
      Object.entries(manifest.files).map(
        async ([file, size]) => (await stat(path.join(folder, file))).size === size,
      ),
    );
    return sizes.every(Boolean);
  } catch {
    return false;
  }
}

/** Moves a finished work folder to its final name. When another process was first, its folder stays. */
export async function publish(work: string, folder: string): Promise<void> {
  const files: Manifest['files'] = {};
  for (const entry of await readdir(work, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const file = path.join(entry.parentPath, entry.name);
    files[path.relative(work, file)] = (await stat(file)).size;
  }
  await writeFile(path.join(work, MANIFEST), JSON.stringify({ files } satisfies Manifest));
  if (!(await isComplete(folder))) await rm(folder, { recursive: true, force: true });
  try {
    await rename(work, folder);
  } catch (error) {
    const taken = ['ENOTEMPTY', 'EEXIST'].includes(systemErrorCode(error) ?? '');
    if (!taken || !(await isComplete(folder))) throw error;
  }
}

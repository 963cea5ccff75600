// Anneal's own cache folder, and making a folder in it all at once.
import { randomUUID } from 'node:crypto';
import { mkdir, rename, rm, stat, statfs, writeFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { lock } from 'proper-lockfile';
import { DiskFullError } from './errors.ts';
import { formatBytes } from './progress.ts';

/** `ANNEAL_CACHE_DIR`, else `$XDG_CACHE_HOME/anneal`, else `~/.cache/anneal`. */
export function annealCacheDir(env: NodeJS.ProcessEnv = process.env): string {
  if (env.ANNEAL_CACHE_DIR) return path.resolve(env.ANNEAL_CACHE_DIR);
  // The XDG base directory specification has relative values ignored.
  const xdg = env.XDG_CACHE_HOME;
  return path.join(xdg && path.isAbsolute(xdg) ? xdg : path.join(homedir(), '.cache'), 'anneal');
}

/**
 * Runs `fill` on a temporary folder beside `target` and renames it: `target` is there complete or not at all. Of two
 * processes that do so at once, the first to finish wins and the other takes its result.
 */
export async function makeFolderAtomically(
  target: string,
  fill: (folder: string) => Promise<void>,
): Promise<void> {
  const temporary = `${target}.${randomUUID()}.tmp`;
  await mkdir(temporary, { recursive: true });
  try {
    await fill(temporary);
    await rename(temporary, target);
  } catch (error) {
    await rm(temporary, { recursive: true, force: true });
    if (errorCode(error) === 'ENOTEMPTY' || errorCode(error) === 'EEXIST') return;
    throw error;
  }
}

const STALE_MS = 30_000;

/**
 * Runs `task` while no other process holds the lock `name` of the cache folder. It spares double work; what `task`
 * makes must be atomic anyway, since a process that is stopped for long loses its lock.
 *
 * @param onWait called once if another process holds the lock
 */
export async function withCacheLock<T>(
  cacheDir: string,
  name: string,
  onWait: () => void,
  task: () => Promise<T>,
): Promise<T> {
  const folder = path.join(cacheDir, 'locks');
  await mkdir(folder, { recursive: true });
  const file = path.join(folder, name);
  await writeFile(file, '', { flag: 'a' });
  const release = await waitForLock(file, onWait);
  try {
    return await task();
  } finally {
    await release().catch(() => {});
  }
}

async function waitForLock(file: string, onWait: () => void): Promise<() => Promise<void>> {
  for (let attempt = 0; ; attempt++) {
    try {
      return await lock(file, { stale: STALE_MS, update: STALE_MS / 5, onCompromised: () => {} });
    } catch (error) {
      if (errorCode(error) !== 'ELOCKED') throw error;
      if (attempt === 0) onWait();
      await sleep(250);
    }
  }
}

/** Throws DiskFullError unless the disk of `folder` has room for `bytes` more. */
export async function requireDiskSpace(folder: string, bytes: number, what: string): Promise<void> {
  const { bavail, bsize } = await statfs(folder);
  if (bavail * bsize >= bytes) return;
  throw new DiskFullError(
    `${what} needs ${formatBytes(bytes)} in ${folder}, but ${formatBytes(bavail * bsize)} are free; free some space, or put the cache on a larger disk (ANNEAL_CACHE_DIR, HF_HOME)`,
  );
}

/** Whether there is something at a path. */
export async function pathExists(target: string): Promise<boolean> {
  return stat(target).then(
    () => true,
    () => false,
  );
}

/** `ENOENT` and the like. */
export function errorCode(error: unknown): string | undefined {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined;
}

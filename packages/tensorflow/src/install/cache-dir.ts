/** Where downloaded and built files live between runs, and whether there is room for more. */
import { mkdir, statfs } from 'node:fs/promises';
import { homedir } from 'node:os';
import path from 'node:path';
import { systemErrorCode, TensorflowSetupError } from './errors.ts';
import { megabytes } from './progress.ts';

/** `ANNEAL_CACHE_DIR`, else `$XDG_CACHE_HOME/anneal`, else `~/.cache/anneal`. */
export function annealCacheDir(env: NodeJS.ProcessEnv = process.env): string {
  if (env.ANNEAL_CACHE_DIR) return path.resolve(env.ANNEAL_CACHE_DIR);
  // The XDG base directory specification says that relative values are to be ignored.
  const xdg = env.XDG_CACHE_HOME;
  return path.join(xdg && path.isAbsolute(xdg) ? xdg : path.join(homedir(), '.cache'), 'anneal');
}

/** Creates the folder, or says why it cannot be written to. */
export async function makeCacheDir(dir: string): Promise<void> {
  try {
    await mkdir(dir, { recursive: true });
  } catch (error) {
    throw cacheWriteError(dir, error);
  }
}

/** Turns a file system error under the cache folder into one that says what to do; others pass through. */
export function cacheWriteError(dir: string, error: unknown): unknown {
  const code = systemErrorCode(error);
  if (code === 'ENOSPC' || code === 'EDQUOT') return diskFull(dir, error);
  if (code && ['EACCES', 'EPERM', 'EROFS', 'ENOTDIR', 'EEXIST'].includes(code)) {
    const remedy = 'Make it writable, or set ANNEAL_CACHE_DIR to a folder that is.';
    return new TensorflowSetupError(
      'cache_unwritable',
      `The cache folder ${dir} cannot be written (${code}).`,
      remedy,
      error,
    );
  }
  return error;
}

/** Throws unless `dir` has room for `neededBytes`. */
export async function checkDiskSpace(dir: string, neededBytes: number): Promise<void> {
  const { bavail, bsize } = await statfs(dir);
  const freeBytes = bavail * bsize;
  if (freeBytes < neededBytes) throw diskFull(dir, undefined, { neededBytes, freeBytes });
}

export function diskFull(
  dir: string,
  cause?: unknown,
  sizes?: { neededBytes: number; freeBytes: number },
): TensorflowSetupError {
  const detail = sizes
    ? `: TensorFlow needs ${megabytes(sizes.neededBytes)} MB, ${megabytes(sizes.freeBytes)} MB are free`
    : '';
  const remedy = 'Free some space, or set ANNEAL_CACHE_DIR to a folder on a larger disk.';
  return new TensorflowSetupError('disk_full', `The disk of ${dir} is too full${detail}.`, remedy, cause);
}

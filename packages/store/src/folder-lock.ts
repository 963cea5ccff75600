import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import Sqlite from 'better-sqlite3';

/** Another process works in the folder. */
export class FolderInUseError extends Error {
  override readonly name = 'FolderInUseError';
  /** Process id of the other one, where it is known. */
  readonly pid: number | undefined;

  constructor(folder: string, pid: number | undefined, options?: ErrorOptions) {
    super(`${folder} is in use by ${pid === undefined ? 'another process' : `process ${pid}`}`, options);
    this.pid = pid;
  }
}

/**
 * Claims a folder for this process until the returned function is called or the process ends. The claim is the
 * operating system's lock on a file, which SQLite takes: a killed process leaves nothing behind that has to expire.
 *
 * @throws FolderInUseError when another process holds it.
 */
export function lockFolder(folder: string): () => void {
  const pidFile = join(folder, 'lock.pid');
  const lock = new Sqlite(join(folder, 'lock.sqlite'), { timeout: 0 });
  try {
    lock.exec('BEGIN EXCLUSIVE');
  } catch (cause) {
    lock.close();
    if ((cause as { code?: string }).code !== 'SQLITE_BUSY') throw cause;
    throw new FolderInUseError(folder, readPid(pidFile), { cause });
  }
  writeFileSync(pidFile, `${process.pid}\n`);
  return () => lock.close();
}

function readPid(file: string): number | undefined {
  try {
    const pid = Number(readFileSync(file, 'utf8'));
    return Number.isInteger(pid) && pid > 0 ? pid : undefined;
  } catch {
    return undefined;
  }
}

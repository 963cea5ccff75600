import { createWriteStream, existsSync } from 'node:fs';
import { mkdir, rename, rm } from 'node:fs/promises';
import { basename, join, resolve } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { ReadableStream } from 'node:stream/web';
import type { RestClient } from '@anneal/client';
import { extract } from 'tar-stream';
import { CliError, usageError } from './errors.ts';

/**
 * Fetches the archive of a checkpoint and unpacks it into a new folder, which appears when it is whole.
 *
 * @returns names of the files
 * @throws CliError when the folder exists, or the archive ends early or names a file outside of itself
 */
export async function downloadCheckpoint(rest: RestClient, path: string, folder: string): Promise<string[]> {
  const target = resolve(folder);
  if (existsSync(target)) throw usageError(`--output: ${target} exists already; name a new folder`);
  const { url } = await rest.getCheckpointArchiveUrlFromTinkerPath(path);
  const answer = await fetch(url);
  if (!answer.ok || !answer.body)
    throw new CliError(`the download of ${path} failed with status ${answer.status}`);
  const temporary = `${target}.part`;
  await rm(temporary, { recursive: true, force: true });
  await mkdir(temporary, { recursive: true });
  try {
    const files = await unpack(Readable.fromWeb(answer.body as ReadableStream), temporary);
    await rename(temporary, target);
    return files;
  } catch (error) {
    await rm(temporary, { recursive: true, force: true });
    throw error;
  }
}

async function unpack(archive: Readable, folder: string): Promise<string[]> {
  const entries = extract();
  const fed = pipeline(archive, entries);
  const files: string[] = [];
  for await (const entry of entries) {
    const { name, type } = entry.header;
    if (type !== 'file' || name !== basename(name))
      throw new CliError(`the archive holds an odd entry, "${name}"`);
    await pipeline(entry, createWriteStream(join(folder, name)));
    files.push(name);
  }
  await fed;
  return files.sort();
}

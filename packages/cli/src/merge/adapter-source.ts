/** Where an adapter and its base model are: on a server, in a folder, in the caches of this machine. */
import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { ModelNotFoundError, resolveModel } from '@anneal/hub';
import { downloadCheckpoint } from '../download-checkpoint.ts';
import { CliError, usageError } from '../errors.ts';
import { type RemoteOptions, withServer } from '../remote.ts';

/** Runs `work` on the adapter's folder; a server's is fetched for as long as that takes. */
export async function withAdapter<T>(
  path: string,
  options: RemoteOptions,
  work: (folder: string) => Promise<T>,
): Promise<T> {
  if (!path.startsWith('tinker://')) return await work(path);
  const temporary = await mkdtemp(join(tmpdir(), 'anneal-adapter-'));
  try {
    const folder = join(temporary, 'adapter');
    await withServer(options, (rest) => downloadCheckpoint(rest, path, folder));
    return await work(folder);
  } finally {
    await rm(temporary, { recursive: true, force: true });
  }
}

/** The folder of a base model on this machine, by its name or the folder itself. */
export async function baseFolder(model: string | undefined): Promise<string> {
  if (model === undefined) throw usageError('--model: the adapter does not name its base model; name it');
  // Merging asks for no tokenizer, unlike serving.
  if (existsSync(join(model, 'config.json'))) return resolve(model);
  try {
    return (await resolveModel(model, { offline: true })).folder;
  } catch (cause) {
    if (!(cause instanceof ModelNotFoundError)) throw cause;
    throw new CliError(
      `--model: "${model}" is neither a checkpoint folder nor fetched; give the folder that is served, or run anneal model pull`,
      { cause },
    );
  }
}

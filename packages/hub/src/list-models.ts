// Which models are on this machine: those that Anneal made, and those of the hub's cache, which Python fills too.
import { readdir } from 'node:fs/promises';
import path from 'node:path';
import { annealCacheDir } from './cache-folder.ts';
import { missingFiles } from './checkpoint-folder.ts';
import { readHubSettings } from './hub-settings.ts';

export interface FetchedModel {
  /** As it is named on the hub. */
  readonly name: string;
  readonly folder: string;
}

/** Complete checkpoints in both caches, by name; one for each revision. Files that are not models are passed over. */
export async function listFetchedModels(env: NodeJS.ProcessEnv = process.env): Promise<FetchedModel[]> {
  const { cacheDir: hub } = await readHubSettings(env);
  const ours = path.join(annealCacheDir(env), 'models');
  const candidates = [
    ...(await childrenOf(ours)).map((name) => ({ name, parent: path.join(ours, name) })),
    ...(await childrenOf(hub))
      .filter((folder) => folder.startsWith('models--'))
      .map((folder) => ({
        name: folder.slice('models--'.length),
        parent: path.join(hub, folder, 'snapshots'),
      })),
  ];
  const found = await Promise.all(candidates.map(({ name, parent }) => completeIn(name, parent)));
  return found.flat().sort((a, b) => a.name.localeCompare(b.name) || a.folder.localeCompare(b.folder));
}

async function completeIn(entry: string, parent: string): Promise<FetchedModel[]> {
  const name = entry.replace('--', '/');
  const folders = (await childrenOf(parent)).map((child) => path.join(parent, child));
  const lacking = await Promise.all(folders.map((folder) => missingFiles(folder).catch(() => ['an index'])));
  return folders.filter((_, i) => lacking[i]!.length === 0).map((folder) => ({ name, folder }));
}

async function childrenOf(folder: string): Promise<string[]> {
  const entries = await readdir(folder, { withFileTypes: true }).catch(() => []);
  return entries
    .filter((entry) => entry.isDirectory() && !entry.name.endsWith('.tmp'))
    .map(({ name }) => name);
}

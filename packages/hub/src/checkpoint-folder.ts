// What makes a folder a checkpoint that can be served.
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { z } from 'zod';
import { pathExists } from './cache-folder.ts';

export const WEIGHTS_FILE = 'model.safetensors';
export const WEIGHTS_INDEX = 'model.safetensors.index.json';

const indexSchema = z.object({ weight_map: z.record(z.string(), z.string()) });

/** Names of the shards that the text of an index file lists. Throws when it is malformed. */
export function shardsOfIndex(text: string): string[] {
  const { weight_map: map } = indexSchema.parse(JSON.parse(text));
  return [...new Set(Object.values(map))].sort();
}

/** Names of the files that a checkpoint folder lacks: empty when it is complete. */
export async function missingFiles(folder: string): Promise<string[]> {
  const needed = ['config.json', 'tokenizer.json', ...(await weightFiles(folder))];
  const present = await Promise.all(needed.map((file) => pathExists(path.join(folder, file))));
  return needed.filter((_, i) => !present[i]);
}

async function weightFiles(folder: string): Promise<string[]> {
  if (await pathExists(path.join(folder, WEIGHTS_FILE))) return [];
  const index = await readFile(path.join(folder, WEIGHTS_INDEX), 'utf8').catch(() => undefined);
  return index === undefined ? [WEIGHTS_FILE] : shardsOfIndex(index);
}

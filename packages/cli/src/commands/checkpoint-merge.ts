import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { ModelNotFoundError, resolveModel } from '@anneal/hub';
import type { Command } from 'commander';
import { downloadCheckpoint } from '../download-checkpoint.ts';
import { CliError, usageError } from '../errors.ts';
import { baseNamedBy } from '../merge/adapter-file.ts';
import { mergeAdapter } from '../merge/merge-adapter.ts';
import { bytes, facts, print } from '../output/print.ts';
import { addRemoteOptions, type RemoteOptions, withServer } from '../remote.ts';

interface MergeOptions extends RemoteOptions {
  output: string;
  model?: string;
}

export function addCheckpointMerge(checkpoint: Command): void {
  const command = checkpoint
    .command('merge')
    .argument('<path>', 'tinker:// path, or a folder with an adapter in PEFT format')
    .description('write the base model with an adapter merged into it, as a folder that transformers loads')
    .requiredOption('-o, --output <folder>', 'new folder for the model')
    .option(
      '--model <model>',
      'the base model, hub name or folder (default: the one that the adapter names)',
    );
  addRemoteOptions(command).action(merge);
}

async function merge(path: string, options: MergeOptions): Promise<void> {
  const merged = await withAdapter(path, options, async (adapter) => {
    const base = await baseFolder(options.model ?? baseNamedBy(adapter));
    return { path, base, ...(await mergeAdapter(adapter, base, options.output)) };
  });
  print(options.json, merged, () =>
    facts([
      ['folder', merged.folder],
      ['base', merged.base],
      ['weights changed', merged.merged],
      ['head', merged.untied ? 'a tensor of its own now, which the base shares with its embedding' : ''],
      ['size', bytes(merged.sizeBytes)],
    ]),
  );
}

/** Runs `work` on the adapter's folder; a server's is fetched for as long as that takes. */
async function withAdapter<T>(
  path: string,
  options: MergeOptions,
  work: (folder: string) => Promise<T>,
): Promise<T> {
  if (!path.startsWith('tinker://')) return await work(path);
  const temporary = await mkdtemp(join(tmpdir(), 'anneal-merge-'));
  try {
    const folder = join(temporary, 'adapter');
    await withServer(options, (rest) => downloadCheckpoint(rest, path, folder));
    return await work(folder);
  } finally {
    await rm(temporary, { recursive: true, force: true });
  }
}

async function baseFolder(model: string | undefined): Promise<string> {
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

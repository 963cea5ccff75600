import { basename, resolve } from 'node:path';
import { ModelNotFoundError, resolveModel } from '@anneal/hub';
import { importAdapter } from '@anneal/server';
import type { Command } from 'commander';
import type { ServeConfig } from '../config/serve-config.ts';
import { CliError, usageError } from '../errors.ts';
import { bytes, facts, print } from '../output/print.ts';
import { modelList, type WantedModel } from '../serve/model-list.ts';
import { addStoreOptions, type StoreOptions, withStore } from '../store-access.ts';

interface ImportOptions extends StoreOptions {
  model?: string;
  owner: string;
  name?: string;
}

export function addCheckpointImport(checkpoint: Command): void {
  const command = checkpoint
    .command('import')
    .argument('<folder>', 'folder with adapter_config.json and adapter_model.safetensors')
    .description(
      "take in a LoRA adapter that was trained elsewhere with PEFT; works on the server's data folder",
    )
    .option('--model <model>', 'the base model it is for, as anneal serve names it (default: the served one)')
    .option('--owner <name>', 'whose checkpoint it is', 'default')
    .option('--name <name>', "the checkpoint's name (default: the folder's)");
  addStoreOptions(command).action(importFolder);
}

async function importFolder(folder: string, options: ImportOptions): Promise<void> {
  const { owner, name = basename(resolve(folder)) } = options;
  const imported = await withStore(options, async (store, config) => {
    const base = await findBase(wantedBase(config, options.model));
    return await importAdapter(store, { folder, base, owner, name });
  });
  print(options.json, imported, () =>
    facts([
      ['path', imported.path],
      ['LoRA rank', imported.rank],
      ['LoRA alpha', imported.alpha],
      ['size', bytes(imported.sizeBytes)],
      ['added without effect', summary(imported.added)],
    ]),
  );
}

function wantedBase({ model, alias }: ServeConfig, named: string | undefined): WantedModel {
  const { models, aliases } = modelList(model, alias);
  if (named === undefined) {
    const [only] = models;
    if (only && models.length === 1) return only;
    throw usageError(`--model: say which the adapter is for: ${models.map(({ name }) => name).join(', ')}`);
  }
  const wanted = aliases[named] ?? named;
  const served = models.find(({ name, source }) => name === wanted || source === resolve(wanted));
  return served ?? modelList([named], {}).models[0]!;
}

async function findBase({ name, source }: WantedModel): Promise<{ name: string; folder: string }> {
  try {
    const { folder } = await resolveModel(source, { offline: true });
    return { name, folder };
  } catch (cause) {
    if (!(cause instanceof ModelNotFoundError)) throw cause;
    throw new CliError(`--model: "${source}" is neither a checkpoint folder nor fetched`, { cause });
  }
}

/** The kinds of modules, such as `k_proj`. */
function summary(paths: string[]): string {
  return [...new Set(paths.map((path) => path.split('.').at(-1)))].join(', ') || 'nothing';
}

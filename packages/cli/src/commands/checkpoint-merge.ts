import type { Command } from 'commander';
import { baseNamedBy } from '../merge/adapter-file.ts';
import { baseFolder, withAdapter } from '../merge/adapter-source.ts';
import { mergeAdapter } from '../merge/merge-adapter.ts';
import { bytes, facts, print } from '../output/print.ts';
import { addRemoteOptions, type RemoteOptions } from '../remote.ts';

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

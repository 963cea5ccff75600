import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { HubPushError, pushFiles } from '@anneal/hub';
import type { Command } from 'commander';
import { CliError, usageError } from '../errors.ts';
import { baseNamedBy } from '../merge/adapter-file.ts';
import { baseFolder, withAdapter } from '../merge/adapter-source.ts';
import { mergeAdapter } from '../merge/merge-adapter.ts';
import { modelProgress } from '../output/model-progress.ts';
import { facts, print } from '../output/print.ts';
import { adapterFiles } from '../push/adapter-files.ts';
import { modelCard } from '../push/model-card.ts';
import { addRemoteOptions, type RemoteOptions } from '../remote.ts';

interface PushOptions extends RemoteOptions {
  merged?: boolean;
  model?: string;
  baseModel?: string;
  private?: boolean;
  message?: string;
}

const HUB_NAME = /^[\w.-]+\/[\w.-]+$/;

export function addCheckpointPush(checkpoint: Command): void {
  const command = checkpoint
    .command('push-hf')
    .argument('<path>', 'tinker:// path, or a folder with an adapter in PEFT format')
    .argument('<repository>', 'OWNER/NAME on the hub; made when it is not there')
    .description(
      'upload an adapter, or its base with it merged in, to the Hugging Face hub (HF_TOKEN, HF_ENDPOINT)',
    )
    .option('--merged', 'upload a whole model with the adapter merged into it')
    .option(
      '--model <model>',
      'with --merged: the base model, hub name or folder (default: the one that the adapter names)',
    )
    .option('--base-model <name>', "the base's name on the hub (default: the one that the adapter names)")
    .option('--private', 'make the repository private')
    .option('--message <text>', 'of the commit');
  addRemoteOptions(command).action(push);
}

async function push(path: string, repository: string, options: PushOptions): Promise<void> {
  if (options.model !== undefined && !options.merged) throw usageError('--model: it needs --merged');
  const scratch = await mkdtemp(join(tmpdir(), 'anneal-push-'));
  const progress = modelProgress();
  try {
    const pushed = await withAdapter(path, options, async (adapter) => {
      const named = baseNamedBy(adapter);
      const base = hubName(options.baseModel ?? named);
      const { files, rank, alpha } = await adapterFiles(adapter, base, scratch);
      const card = modelCard({ repository, base, merged: options.merged ?? false, rank, alpha });
      const uploaded = options.merged
        ? await mergedFiles(adapter, await baseFolder(options.model ?? named), join(scratch, 'merged'))
        : files;
      const message = options.message ?? `Upload ${path.startsWith('tinker://') ? path : 'an adapter'}`;
      const isPrivate = options.private ?? false;
      return await pushFiles({
        repository,
        files: uploaded,
        card,
        message,
        isPrivate,
        onProgress: progress.onProgress,
      });
    });
    print(options.json, { path, ...pushed }, () =>
      facts([
        ['repository', pushed.url],
        ['commit', pushed.commit],
        ['files', pushed.files.join(', ')],
      ]),
    );
  } catch (error) {
    throw error instanceof HubPushError ? new CliError(error.message, { cause: error }) : error;
  } finally {
    progress.stop();
    await rm(scratch, { recursive: true, force: true });
  }
}

/** The hub links a model to its base by this name. */
function hubName(name: string | undefined): string {
  if (name !== undefined && HUB_NAME.test(name)) return name;
  const found = name === undefined ? 'the adapter names no base model' : `"${name}" is no name on the hub`;
  throw usageError(`--base-model: ${found}; give OWNER/NAME`);
}

/** The base's own card tells of another model. */
async function mergedFiles(adapter: string, base: string, folder: string): Promise<Record<string, string>> {
  await mergeAdapter(adapter, base, folder);
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  const files = entries
    .filter((entry) => entry.isFile())
    .map((entry) => relative(folder, join(entry.parentPath, entry.name)))
    .filter((name) => !name.toLowerCase().endsWith('.md'));
  return Object.fromEntries(files.map((name) => [name, join(folder, name)]));
}

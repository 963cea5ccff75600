import { type Checkpoint, ParsedCheckpointTinkerPath, type RestClient } from '@anneal/client';
import type { Command } from 'commander';
import { downloadCheckpoint } from '../download-checkpoint.ts';
import { CliError, usageError } from '../errors.ts';
import { bytes, facts, print, table } from '../output/print.ts';
import { addRemoteOptions, type RemoteOptions, withServer } from '../remote.ts';
import { addCheckpointImport } from './checkpoint-import.ts';
import { addCheckpointMerge } from './checkpoint-merge.ts';
import { addCheckpointPush } from './checkpoint-push.ts';
import { naturalNumber, take } from './listing.ts';

export function checkpointCommand(program: Command): Command {
  const checkpoint = program
    .createCommand('checkpoint')
    .copyInheritedSettings(program)
    .description('checkpoints of a server');
  const command = (name: string, description: string) =>
    addRemoteOptions(checkpoint.command(name).description(description));
  command('list', 'checkpoints, newest first')
    .option('--run <run>', 'only those of one training run')
    .option('--limit <number>', 'how many', naturalNumber, 100)
    .action(list);
  command('info', 'one checkpoint').argument('<path>', 'tinker:// path').action(info);
  command('publish', 'let other keys read a checkpoint')
    .argument('<path>', 'tinker:// path')
    .action((path: string, options: RemoteOptions) =>
      change(options, { path, public: true }, (rest) => rest.publishCheckpointFromTinkerPath(path)),
    );
  command('unpublish', 'keep a checkpoint to your own keys again')
    .argument('<path>', 'tinker:// path')
    .action((path: string, options: RemoteOptions) =>
      change(options, { path, public: false }, (rest) => rest.unpublishCheckpointFromTinkerPath(path)),
    );
  command('set-ttl', 'set when a checkpoint is deleted')
    .argument('<path>', 'tinker:// path')
    .option('--ttl <seconds>', 'seconds from now, at least 3600', naturalNumber)
    .option('--remove', 'keep it for ever')
    .action(setTtl);
  command('delete', 'delete checkpoints for good').argument('<paths...>', 'tinker:// paths').action(remove);
  command('download', 'fetch the files of a checkpoint')
    .argument('<path>', 'tinker:// path')
    .option('-o, --output <folder>', "new folder for the files (default: the checkpoint's name)")
    .action(download);
  addCheckpointImport(checkpoint);
  addCheckpointMerge(checkpoint);
  addCheckpointPush(checkpoint);
  return checkpoint;
}

async function list({
  run,
  limit,
  ...options
}: RemoteOptions & { run?: string; limit: number }): Promise<void> {
  const checkpoints = await withServer(options, async (rest) =>
    run === undefined
      ? await take(rest.userCheckpoints(), limit)
      : (await rest.listCheckpoints(run)).checkpoints,
  );
  print(options.json, { checkpoints }, () =>
    table(
      ['path', 'size', 'saved', 'expires', ''],
      checkpoints.map((entry) => [
        entry.tinker_path,
        bytes(entry.size_bytes),
        entry.time,
        entry.expires_at ?? 'never',
        entry.public ? 'public' : '',
      ]),
      'No checkpoints yet.',
    ),
  );
}

async function info(path: string, options: RemoteOptions): Promise<void> {
  const { checkpoint, weights } = await withServer(options, async (rest) => ({
    checkpoint: await find(rest, path),
    weights: await rest.getWeightsInfoByTinkerPath(path),
  }));
  print(options.json, { ...checkpoint, weights }, () =>
    facts([
      ['path', checkpoint.tinker_path],
      ['type', checkpoint.checkpoint_type],
      ['base model', weights.base_model],
      ['LoRA rank', weights.lora_rank],
      ['size', bytes(checkpoint.size_bytes)],
      ['saved', checkpoint.time],
      ['expires', checkpoint.expires_at ?? 'never'],
      ['public', checkpoint.public ? 'yes' : 'no'],
    ]),
  );
}

async function find(rest: RestClient, path: string): Promise<Checkpoint> {
  const { training_run_id, tinker_path } = ParsedCheckpointTinkerPath.fromTinkerPath(path);
  const { checkpoints } = await rest.listCheckpoints(training_run_id);
  const found = checkpoints.find((entry) => entry.tinker_path === tinker_path);
  if (!found) throw new CliError(`no checkpoint "${path}"`);
  return found;
}

async function change(
  options: RemoteOptions,
  result: { path: string } & Record<string, unknown>,
  work: (rest: RestClient) => PromiseLike<void>,
): Promise<void> {
  await withServer(options, async (rest) => await work(rest));
  print(options.json, result, () => `Done: ${result.path}`);
}

async function setTtl(
  path: string,
  { ttl, remove, ...options }: RemoteOptions & { ttl?: number; remove?: boolean },
): Promise<void> {
  if ((ttl === undefined) === (remove === undefined))
    throw usageError('give either --ttl SECONDS or --remove');
  const seconds = ttl ?? null;
  await change(options, { path, ttl_seconds: seconds }, (rest) =>
    rest.setCheckpointTtlFromTinkerPath(path, seconds),
  );
}

async function remove(paths: string[], options: RemoteOptions): Promise<void> {
  await withServer(options, async (rest) => {
    for (const path of paths) await rest.deleteCheckpointFromTinkerPath(path);
  });
  print(
    options.json,
    { deleted: paths },
    () => `Deleted ${paths.length === 1 ? paths[0] : `${paths.length} checkpoints`}`,
  );
}

async function download(
  path: string,
  { output, ...options }: RemoteOptions & { output?: string },
): Promise<void> {
  const { checkpoint_id } = ParsedCheckpointTinkerPath.fromTinkerPath(path);
  const folder = output ?? checkpoint_id.slice(checkpoint_id.indexOf('/') + 1);
  const files = await withServer(options, (rest) => downloadCheckpoint(rest, path, folder));
  print(options.json, { path, folder, files }, () => `${files.length} files in ${folder}`);
}

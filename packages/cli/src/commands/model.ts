import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import { convertGguf, formatBytes, inspectModel, ModelNotFoundError, resolveModel } from '@anneal/hub';
import type { Command } from 'commander';
import { CliError, usageError } from '../errors.ts';
import { modelProgress } from '../output/model-progress.ts';
import { facts, print, table } from '../output/print.ts';
import { addRemoteOptions, type RemoteOptions, withServer } from '../remote.ts';

interface JsonOption {
  json?: boolean;
}

export function modelCommand(program: Command): Command {
  const model = program
    .createCommand('model')
    .copyInheritedSettings(program)
    .description('fetch and look at base models');
  addRemoteOptions(model.command('list').description('models that a running server offers')).action(list);
  model
    .command('pull')
    .argument('<name>', 'hub name, for example HuggingFaceTB/SmolLM2-135M-Instruct')
    .description('fetch a model now, so that a later start finds it')
    .option('--revision <revision>', 'branch, tag or commit on the hub')
    .option('--json', 'print JSON')
    .action(pull);
  model
    .command('inspect')
    .argument('<model>', 'hub name of a fetched model, or a checkpoint folder')
    .description('describe a model that is on this machine')
    .option('--json', 'print JSON')
    .action(inspect);
  model
    .command('import')
    .argument('<file>', 'a GGUF file of the Llama family')
    .argument('<folder>', 'new folder for the checkpoint')
    .description('convert a GGUF file to a checkpoint folder that can be served')
    .option('--json', 'print JSON')
    .action(importGguf);
  return model;
}

async function list(options: RemoteOptions): Promise<void> {
  const { supported_models: models } = await withServer(
    options,
    async (rest) => await rest.getServerCapabilities(),
  );
  print(options.json, { models }, () =>
    table(
      ['model', 'context length'],
      models.map(({ model_name, max_context_length }) => [
        model_name ?? '',
        String(max_context_length ?? ''),
      ]),
    ),
  );
}

async function pull(name: string, { json, revision }: JsonOption & { revision?: string }): Promise<void> {
  const progress = modelProgress();
  const found = await resolveModel(name, { revision, onProgress: progress.onProgress }).finally(
    progress.stop,
  );
  print(json, found, () => [`${found.name} is in ${found.folder}`, found.note].filter(Boolean).join('\n'));
}

async function inspect(name: string, { json }: JsonOption): Promise<void> {
  const { folder } = await resolveModel(name, { offline: true }).catch((cause: unknown) => {
    if (!(cause instanceof ModelNotFoundError)) throw cause;
    throw new CliError(
      `"${name}" is neither a checkpoint folder nor fetched. Fetch it: anneal model pull ${name}`,
      { cause },
    );
  });
  const model = await inspectModel(folder);
  print(json, { name, ...model }, () =>
    facts([
      ['model', name],
      ['folder', folder],
      ['architecture', model.architecture ?? model.modelType],
      ['layers', model.layers],
      ['hidden size', model.hiddenSize],
      ['vocabulary', model.vocabSize],
      ['context length', model.contextLength],
      ['parameters', model.parameters.toLocaleString('en')],
      [
        'tensors',
        Object.entries(model.tensorCounts)
          .map(([dtype, count]) => `${count} ${dtype}`)
          .join(', '),
      ],
      ['size on disk', formatBytes(model.storedBytes)],
      [
        'memory',
        `${formatBytes(model.memoryBytes.fp32)} in fp32, ${formatBytes(model.memoryBytes.bf16)} in bf16`,
      ],
      ['chat template', model.hasChatTemplate ? 'yes' : 'no'],
    ]),
  );
}

async function importGguf(file: string, folder: string, { json }: JsonOption): Promise<void> {
  if (!existsSync(file)) throw usageError(`file: ${file} does not exist`);
  if (existsSync(folder)) throw usageError(`folder: ${folder} exists already; name a new one`);
  const target = resolve(folder);
  const progress = modelProgress();
  const onProgress = (receivedBytes: number, totalBytes: number) =>
    progress.onProgress({
      type: 'progress',
      source: 'folder',
      step: 'convert',
      file,
      receivedBytes,
      totalBytes,
    });
  await convertGguf(file, target, { onProgress }).finally(progress.stop);
  print(json, { folder: target }, () => `Converted. Serve it with: anneal serve --model ${target}`);
}

import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import type { Precision } from '@anneal/engine';
import {
  convertGguf,
  formatBytes,
  inspectModel,
  listFetchedModels,
  ModelNotFoundError,
  resolveModel,
} from '@anneal/hub';
import { ConsoleOverview } from '@anneal/types/console';
import { type Command, Option } from 'commander';
import { CliError, usageError } from '../errors.ts';
import { modelProgress } from '../output/model-progress.ts';
import { facts, print, table } from '../output/print.ts';
import { addRemoteOptions, callServer, type RemoteOptions, withConnection, withServer } from '../remote.ts';

interface JsonOption {
  json?: boolean;
}

export function modelCommand(program: Command): Command {
  const model = program
    .createCommand('model')
    .copyInheritedSettings(program)
    .description('fetch and look at base models');
  addRemoteOptions(model.command('list').description('models that a running server offers'))
    .addOption(
      new Option('--fetched', 'those that are on this machine instead; no server is asked').conflicts([
        'baseUrl',
        'apiKey',
      ]),
    )
    .action(list);
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

async function list({ fetched, ...options }: RemoteOptions & { fetched?: boolean }): Promise<void> {
  if (fetched) {
    await listFetched(options);
    return;
  }
  const { supported_models: models } = await withServer(
    options,
    async (rest) => await rest.getServerCapabilities(),
  );
  const known = await weightsOf(options);
  const listed = models.map((model) => ({ ...model, ...known.get(model.model_name ?? '') }));
  print(options.json, { models: listed }, () =>
    table(
      ['model', 'context length', 'memory', 'state'],
      listed.map(({ model_name, max_context_length, weight_bytes, state }) => [
        model_name ?? '',
        String(max_context_length ?? ''),
        weight_bytes === undefined ? '' : formatBytes(weight_bytes),
        state ?? '',
      ]),
    ),
  );
}

async function listFetched({ json }: JsonOption): Promise<void> {
  const models = await Promise.all(
    (await listFetchedModels()).map(async ({ name, folder }) => ({
      name,
      folder,
      ...(await sizesOf(folder)),
    })),
  );
  print(json, { models }, () =>
    table(
      ['model', 'parameters', 'on disk', 'memory in auto', 'folder'],
      models.map(({ name, folder, ...sizes }) => [
        name,
        ...('unreadable' in sizes
          ? ['', '', 'cannot be read']
          : [
              sizes.parameters.toLocaleString('en'),
              formatBytes(sizes.storedBytes),
              'memoryBytes' in sizes ? formatBytes(sizes.memoryBytes.auto) : 'not supported',
            ]),
        folder,
      ]),
    ),
  );
}

/** What a fetched model takes, or why that cannot be told: it must not hide the others. */
async function sizesOf(folder: string) {
  try {
    const { parameters, storedBytes } = await inspectModel(folder);
    return { parameters, storedBytes, ...(await memoryOf(folder)) };
  } catch (error) {
    return { unreadable: error instanceof Error ? error.message : String(error) };
  }
}

type WeightsState = Pick<ConsoleOverview['base_models'][number], 'weight_bytes' | 'state'>;

/** By name, what the weights of base models take, and whether they are loaded; empty where the server does not say. */
async function weightsOf(options: RemoteOptions): Promise<Map<string, WeightsState>> {
  try {
    const answer = await withConnection(options, (connection) =>
      callServer(connection, '/console/api/overview'),
    );
    const overview = ConsoleOverview.parse(await answer.json());
    return new Map(
      overview.base_models.map(({ name, weight_bytes, state }) => [name, { weight_bytes, state }]),
    );
  } catch {
    return new Map();
  }
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
  const memory = await memoryOf(folder);
  print(json, { name, ...model, ...memory }, () =>
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
      ['memory', 'memoryBytes' in memory ? shownMemory(memory.memoryBytes) : memory.unsupported],
      ['chat template', model.hasChatTemplate ? 'yes' : 'no'],
    ]),
  );
}

/** Memory that the base weights take in each precision, or why they cannot be served. */
async function memoryOf(
  folder: string,
): Promise<{ memoryBytes: Record<Precision, number> } | { unsupported: string }> {
  const { EngineError, weightMemory } = await import('@anneal/engine');
  try {
    return { memoryBytes: weightMemory(folder) };
  } catch (error) {
    if (error instanceof EngineError) return { unsupported: error.message };
    throw error;
  }
}

function shownMemory(memory: Record<Precision, number>): string {
  return Object.entries(memory)
    .map(([precision, bytes]) => `${formatBytes(bytes)} in ${precision}`)
    .join(', ');
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

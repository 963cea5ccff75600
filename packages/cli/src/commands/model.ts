import { existsSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { convertGguf, formatBytes, ModelNotFoundError, resolveModel } from '@anneal/hub';
import { openSafetensors, type TensorInfo } from '@anneal/safetensors';
import type { Command } from 'commander';
import { CliError, usageError } from '../errors.ts';
import { modelProgress } from '../output/model-progress.ts';
import { facts, print } from '../output/print.ts';

interface JsonOption {
  json?: boolean;
}

/** What a person asks about a checkpoint folder before serving it. */
interface ModelFacts {
  name: string;
  folder: string;
  architecture: string;
  layers?: number;
  hiddenSize?: number;
  vocabularySize?: number;
  contextLength?: number;
  parameters: number;
  /** Number of tensors by stored type. */
  tensors: Record<string, number>;
  bytes: number;
  chatTemplate: boolean;
}

export function modelCommand(program: Command): Command {
  const model = program
    .createCommand('model')
    .copyInheritedSettings(program)
    .description('fetch and look at base models');
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
  const described = describe(name, folder);
  print(json, described, () =>
    facts([
      ['model', described.name],
      ['folder', described.folder],
      ['architecture', described.architecture],
      ['layers', described.layers],
      ['hidden size', described.hiddenSize],
      ['vocabulary', described.vocabularySize],
      ['context length', described.contextLength],
      ['parameters', described.parameters.toLocaleString('en')],
      [
        'tensors',
        Object.entries(described.tensors)
          .map(([dtype, count]) => `${count} ${dtype}`)
          .join(', '),
      ],
      ['size', formatBytes(described.bytes)],
      ['chat template', described.chatTemplate ? 'yes' : 'no'],
    ]),
  );
}

function describe(name: string, folder: string): ModelFacts {
  const config = readJson(join(folder, 'config.json'));
  // Models with several parts (text and images) describe the text part in a section of its own.
  const text = { ...config, ...(typeof config.text_config === 'object' ? config.text_config : {}) };
  const number = (key: string) => (typeof text[key] === 'number' ? text[key] : undefined);
  const weights = tensorsOf(folder);
  const tensors: Record<string, number> = {};
  for (const { dtype } of weights) tensors[dtype] = (tensors[dtype] ?? 0) + 1;
  return {
    name,
    folder,
    architecture: String(config.model_type),
    layers: number('num_hidden_layers'),
    hiddenSize: number('hidden_size'),
    vocabularySize: number('vocab_size'),
    contextLength: number('max_position_embeddings'),
    parameters: weights.reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0),
    tensors,
    bytes: weights.reduce((sum, { byteLength }) => sum + byteLength, 0),
    chatTemplate:
      existsSync(join(folder, 'chat_template.jinja')) ||
      'chat_template' in
        (existsSync(join(folder, 'tokenizer_config.json'))
          ? readJson(join(folder, 'tokenizer_config.json'))
          : {}),
  };
}

function tensorsOf(folder: string): TensorInfo[] {
  const reader = openSafetensors(folder);
  try {
    return reader.tensors;
  } finally {
    reader.close();
  }
}

function readJson(file: string): Record<string, unknown> {
  try {
    return JSON.parse(readFileSync(file, 'utf8')) as Record<string, unknown>;
  } catch (cause) {
    throw new CliError(`${file} can't be read (${(cause as Error).message})`, { cause });
  }
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

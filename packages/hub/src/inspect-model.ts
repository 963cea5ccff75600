// What a checkpoint folder holds, without loading its weights.
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { openSafetensors, type TensorInfo } from '@anneal/safetensors';
import { z } from 'zod';
import { pathExists } from './cache-folder.ts';

export interface ModelDescription {
  readonly folder: string;
  /** `model_type` of config.json, such as `llama`. */
  readonly modelType: string;
  /** Class name in transformers, such as `LlamaForCausalLM`. */
  readonly architecture: string | undefined;
  readonly parameters: number;
  readonly layers: number | undefined;
  readonly hiddenSize: number | undefined;
  readonly vocabSize: number | undefined;
  /** Longest sequence, in tokens. */
  readonly contextLength: number | undefined;
  /** Whether the unembedding shares the embedding's weights. */
  readonly tiedEmbeddings: boolean;
  /** Number of tensors by stored dtype. */
  readonly tensorCounts: Readonly<Record<string, number>>;
  /** Size of the weights as stored. */
  readonly storedBytes: number;
  readonly hasChatTemplate: boolean;
}

const size = z.number().int().positive().optional();

const textConfigSchema = z.object({
  num_hidden_layers: size,
  hidden_size: size,
  vocab_size: size,
  max_position_embeddings: size,
  tie_word_embeddings: z.boolean().optional(),
});

const configSchema = textConfigSchema.extend({
  model_type: z.string(),
  architectures: z.array(z.string()).nullish(),
  text_config: textConfigSchema.optional(),
});

/**
 * Describes a checkpoint folder from its config.json and the headers of its safetensors files.
 *
 * @throws Error naming the file that is missing or malformed
 */
export async function inspectModel(folder: string): Promise<ModelDescription> {
  const config = await readConfig(path.join(folder, 'config.json'));
  // Models of several parts (text and images) describe the text part in a section of its own.
  const text = { ...config, ...config.text_config };
  const tensors = tensorsOf(folder);
  const parameters = tensors.reduce(
    (sum, { shape }) => sum + shape.reduce((product, n) => product * n, 1),
    0,
  );
  const tensorCounts: Record<string, number> = {};
  for (const { dtype } of tensors) tensorCounts[dtype] = (tensorCounts[dtype] ?? 0) + 1;
  return {
    folder,
    modelType: config.model_type,
    architecture: config.architectures?.[0],
    parameters,
    layers: text.num_hidden_layers,
    hiddenSize: text.hidden_size,
    vocabSize: text.vocab_size,
    contextLength: text.max_position_embeddings,
    tiedEmbeddings: !tensors.some(({ name }) => name.endsWith('lm_head.weight')),
    tensorCounts,
    storedBytes: tensors.reduce((sum, { byteLength }) => sum + byteLength, 0),
    hasChatTemplate: await hasChatTemplate(folder),
  };
}

async function readConfig(file: string): Promise<z.infer<typeof configSchema>> {
  const value = await readJson(file);
  const parsed = configSchema.safeParse(value);
  if (parsed.success) return parsed.data;
  throw new Error(`${file}: ${z.prettifyError(parsed.error)}`);
}

async function readJson(file: string): Promise<unknown> {
  try {
    return JSON.parse(await readFile(file, 'utf8'));
  } catch (error) {
    throw new Error(`${file}: ${error instanceof Error ? error.message : error}`, { cause: error });
  }
}

function tensorsOf(folder: string): TensorInfo[] {
  const reader = openSafetensors(folder);
  try {
    return reader.tensors;
  } finally {
    reader.close();
  }
}

async function hasChatTemplate(folder: string): Promise<boolean> {
  for (const file of ['chat_template.jinja', 'chat_template.json']) {
    if (await pathExists(path.join(folder, file))) return true;
  }
  const config = path.join(folder, 'tokenizer_config.json');
  if (!(await pathExists(config))) return false;
  return (
    z.object({ chat_template: z.unknown() }).safeParse(await readJson(config)).data?.chat_template != null
  );
}

/** Writes the model that an adapter makes of its base as a checkpoint folder of its own, one tensor in memory at a time. */
import { existsSync } from 'node:fs';
import { copyFile, cp, mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { basename, extname, join, resolve } from 'node:path';
import {
  isFloatDtype,
  openSafetensors,
  type SafetensorsReader,
  type TensorToWrite,
  writeSafetensors,
} from '@anneal/safetensors';
import { z } from 'zod';
import { CliError, usageError } from '../errors.ts';
import { type AdapterFile, openAdapter } from './adapter-file.ts';
import { addProduct, narrow } from './add-product.ts';

const HEAD = 'lm_head';
/** Of models of text, and of the text part of models that also see images. */
const EMBEDDINGS = ['model.embed_tokens', 'model.language_model.embed_tokens'];
const INDEX = 'model.safetensors.index.json';
/** Tokenizer, configuration and what explains them; no weights in other formats. */
const COPIED = new Set(['.json', '.jinja', '.model', '.txt', '.md']);
const TEMPLATES = 'additional_chat_templates';

export interface Merged {
  folder: string;
  /** How many weights the adapter changed. */
  merged: number;
  sizeBytes: number;
  /** The base's head is its embedding; the merged head is a tensor of its own. */
  untied: boolean;
}

/**
 * @param adapterFolder with `adapter_config.json` and `adapter_model.safetensors`
 * @param baseFolder checkpoint of the base model
 * @param output a new folder, which appears when it is whole
 * @throws CliError when `output` exists, or the adapter does not fit or cannot be merged
 */
export async function mergeAdapter(
  adapterFolder: string,
  baseFolder: string,
  output: string,
): Promise<Merged> {
  const folder = resolve(output);
  if (existsSync(folder)) throw usageError(`--output: ${folder} exists already; name a new folder`);
  const adapter = openAdapter(adapterFolder);
  const base = openSafetensors(baseFolder);
  const temporary = `${folder}.part`;
  try {
    const untied = check(adapter, base);
    await rm(temporary, { recursive: true, force: true });
    await mkdir(temporary, { recursive: true });
    await copyOthers(baseFolder, temporary, untied);
    let sizeBytes = 0;
    for (const file of base.files) sizeBytes += await mergeFile(file, adapter, temporary, untied);
    await rename(temporary, folder);
    return { folder, merged: adapter.modules.size, sizeBytes, untied };
  } catch (error) {
    await rm(temporary, { recursive: true, force: true });
    throw error;
  } finally {
    base.close();
    adapter.reader.close();
  }
}

/** Refuses what does not fit before anything is written. Returns whether the head must be untied. */
function check({ reader, modules, copies }: AdapterFile, base: SafetensorsReader): boolean {
  const untied = modules.has(HEAD) && !base.has(`${HEAD}.weight`);
  const embedding = embeddingOf(base);
  for (const [module, { a, b }] of modules) {
    const name = `${module === HEAD && untied ? embedding : module}.weight`;
    if (!base.has(name))
      throw new CliError(
        `the adapter is on ${module}, which the base model lacks: is it for another? (--model)`,
      );
    const { dtype, shape } = base.info(name);
    if (!isFloatDtype(dtype))
      throw new CliError(`the base model has ${name} as ${dtype}: quantised weights cannot be merged into`);
    const [[rank, inFeatures], [outFeatures, columns]] = [reader.info(a).shape, reader.info(b).shape];
    if (rank === columns && shape.length === 2 && shape[0] === outFeatures && shape[1] === inFeatures)
      continue;
    throw new CliError(
      `the adapter's ${module} is ${outFeatures} × ${inFeatures}, the base model's ${shape.join(' × ')}: is it for another? (--model)`,
    );
  }
  for (const [module, name] of copies) checkCopy(reader, name, base, module);
  return untied;
}

function checkCopy(reader: SafetensorsReader, name: string, base: SafetensorsReader, module: string): void {
  const own = [`${module}.weight`, ...(module === HEAD ? [`${embeddingOf(base)}.weight`] : [])].find((key) =>
    base.has(key),
  );
  if (own !== undefined) {
    const [ours, theirs] = [base.readFloat32Sync(own), reader.readFloat32Sync(name)];
    if (ours.length === theirs.length && ours.every((value, at) => value === theirs[at])) return;
  }
  throw new CliError(
    `tensor "${name}" is not the base model's: adapters with weights of their own cannot be merged`,
  );
}

/** One file of the base under its own name; returns its size. */
async function mergeFile(file: string, adapter: AdapterFile, to: string, untied: boolean): Promise<number> {
  const source = openSafetensors(file);
  try {
    const tensors = source.tensors.map(({ name, dtype, shape }): TensorToWrite => {
      const module = name.replace(/\.weight$/, '');
      const data = adapter.modules.has(module)
        ? () => merged(source, name, adapter, module)
        : () => source.read(name);
      return { name, dtype, shape, data };
    });
    const embedding = `${embeddingOf(source)}.weight`;
    if (untied && source.has(embedding)) {
      const { dtype, shape } = source.info(embedding);
      tensors.push({
        name: `${HEAD}.weight`,
        dtype,
        shape,
        data: () => merged(source, embedding, adapter, HEAD),
      });
    }
    return await writeSafetensors(join(to, basename(file)), tensors, { format: 'pt', ...source.metadata });
  } finally {
    source.close();
  }
}

async function merged(source: SafetensorsReader, name: string, adapter: AdapterFile, module: string) {
  const { a, b } = adapter.modules.get(module)!;
  const { dtype } = source.info(name);
  if (!isFloatDtype(dtype)) throw new CliError(`${name} is ${dtype}`);
  const weight = await source.readFloat32(name);
  const { reader, scaleOf } = adapter;
  addProduct(weight, {
    a: await reader.readFloat32(a),
    b: await reader.readFloat32(b),
    rank: reader.info(a).shape[0]!,
    scale: scaleOf(module),
  });
  return narrow(dtype, weight);
}

/** Everything but the weights; of an untied model with the configuration and the index that say so. */
async function copyOthers(from: string, to: string, untied: boolean): Promise<void> {
  for (const entry of await readdir(from)) {
    if (entry === TEMPLATES)
      await cp(join(from, entry), join(to, entry), { recursive: true, dereference: true });
    else if (COPIED.has(extname(entry))) await copyFile(join(from, entry), join(to, entry));
  }
  if (!untied) return;
  await editJson(join(to, 'config.json'), untie);
  if (existsSync(join(to, INDEX))) await editJson(join(to, INDEX), withHead);
}

/** The module that embeds tokens; of a file without one, the usual name. */
function embeddingOf(source: SafetensorsReader): string {
  return EMBEDDINGS.find((name) => source.has(`${name}.weight`)) ?? EMBEDDINGS[0]!;
}

function embeddingIn(weightMap: Record<string, string>): string {
  const names = EMBEDDINGS.map((name) => `${name}.weight`);
  return names.find((name) => name in weightMap) ?? names[0]!;
}

/** A text part within says it for itself. */
function untie(config: object): object {
  const { text_config: text } = config as { text_config?: unknown };
  const own = { tie_word_embeddings: false };
  const isNested = typeof text === 'object' && text !== null;
  return { ...config, ...own, ...(isNested ? { text_config: { ...text, ...own } } : {}) };
}

const Index = z.looseObject({ weight_map: z.record(z.string(), z.string()) });

function withHead(json: object): object {
  const { metadata: _, weight_map, ...index } = Index.parse(json);
  const weightMap = { ...weight_map, [`${HEAD}.weight`]: weight_map[embeddingIn(weight_map)] };
  return { ...index, metadata: {}, weight_map: weightMap };
}

async function editJson(file: string, edit: (json: object) => object): Promise<void> {
  const json = z.looseObject({}).parse(JSON.parse(await readFile(file, 'utf8')));
  await writeFile(file, `${JSON.stringify(edit(json), null, 2)}\n`);
}

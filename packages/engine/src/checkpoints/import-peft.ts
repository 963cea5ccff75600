/** Turns a LoRA adapter that was trained elsewhere with PEFT into a checkpoint of ours, file to file, without TensorFlow. */
import { randomBytes } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { openSafetensors, type SafetensorsReader } from '@anneal/safetensors';
import { EngineError, type LoraSpec } from '../engine.ts';
import { initialA, isTrained } from '../lora/adapter.ts';
import { type LoraShapeSpec, loraShapes, sizeOf } from '../lora/shapes.ts';
import type { LoraModule } from '../models/architecture.ts';
import { headModule } from '../models/base-model.ts';
import { findArchitecture } from '../models/registry.ts';
import { ADAPTER, ADAPTER_CONFIG, parameterName, writeAdapter } from './checkpoint-files.ts';
import { expectFoundShape, type Found, type FoundPair, foundTensor } from './found-tensors.ts';
import { FoundExperts } from './import-experts.ts';
import { readPeftConfig } from './peft-config.ts';
import { splitWholeMaps } from './peft-split.ts';

/** The served model that an adapter is for. */
export interface ImportBase {
  name: string;
  /** Its checkpoint folder. */
  folder: string;
}

export interface ImportedAdapter {
  lora: LoraSpec;
  /** Paths of modules that the adapter lacks and that were added without any effect, so that groups are whole. */
  added: string[];
}

const PARAMETER = /^base_model\.model\.(?<module>.+)\.lora_(?<part>[AB])\.weight$/;
/** With the head among its targets, PEFT also writes copies of the base's embedding and head. */
const BASE_COPY = /^base_model\.model\.(?<weight>.+?)(?:\.base_layer)?\.weight$/;
/** How exports name the head, here and at the hosted service. */
const EXPORTED_HEAD = 'model.unembed_tokens';

/**
 * Reads `adapter_config.json` and `adapter_model.safetensors` of `from`, and writes a checkpoint into `to`. Modules that
 * a group lacks get a fresh A and a B of zeros, so the function stays the same.
 *
 * @throws EngineError (user) when the adapter does not fit the base model, or our LoRA cannot be what it is.
 */
export async function importPeft(from: string, to: string, base: ImportBase): Promise<ImportedAdapter> {
  const { rank, alpha, ranks } = readPeftConfig(readText(from, ADAPTER_CONFIG));
  const reader = open(from, ADAPTER);
  try {
    const modules = modulesOf(base);
    const experts = new FoundExperts(modules, rank);
    const found = findParameters(reader, modules, base, experts);
    if (ranks.in_proj_qkv === 3 * rank) splitWholeMaps(found, modules, rank);
    for (const [path, pair] of experts.found()) found.set(path, pair);
    checkWhole(found, modules);
    const lora = specOf(found, modules, { rank, alpha });
    checkShapes(found, modules, lora);
    const wanted = modules.filter((module) => isTrained(lora, module));
    const seed = lora.seed ?? 0n;
    const tensors = wanted.flatMap((module) => {
      const pair = found.get(module.path);
      const values = {
        A: () => pair?.A?.values() ?? initialA(module, lora, seed),
        B: () => pair?.B?.values() ?? new Float32Array(sizeOf(loraShapes(module, lora).b)),
      };
      return (['A', 'B'] as const).map((part) => ({
        name: parameterName(module.path, `lora_${part}`),
        dtype: 'F32' as const,
        shape: shapeOf(module, part, lora),
        data: values[part],
      }));
    });
    await writeAdapter(to, { baseModel: base.name, lora, step: 0, modules: wanted, tensors });
    const added = wanted.filter((module) => !found.has(module.path));
    return { lora, added: added.map((module) => module.path) };
  } finally {
    reader.close();
  }
}

function findParameters(
  reader: SafetensorsReader,
  modules: LoraModule[],
  base: ImportBase,
  experts: FoundExperts,
): Found {
  const known = new Set(modules.map((module) => module.path));
  const found: Found = new Map();
  for (const { name } of reader.tensors) {
    const { module: given = '', part } = PARAMETER.exec(name)?.groups ?? {};
    const module = given === EXPORTED_HEAD ? 'lm_head' : given;
    if (part && known.has(module)) {
      found.set(module, { ...found.get(module), [part]: foundTensor(reader, name) });
    } else if (part && experts.take(module, part as 'A' | 'B', foundTensor(reader, name))) {
      // Kept there until all of them are known.
    } else if (!isBaseCopy(reader, name, base)) {
      const kinds = [...new Set([...known].map((path) => path.split('.').at(-1)))];
      const fits = `LoRA can be on ${kinds.join(', ')} of ${base.name}`;
      throw new EngineError('user', `${ADAPTER}: tensor "${name}" cannot be imported: ${fits}.`);
    }
  }
  return found;
}

/** Whether a tensor only repeats what the base model has. */
function isBaseCopy(reader: SafetensorsReader, name: string, base: ImportBase): boolean {
  const weight = BASE_COPY.exec(name)?.groups?.weight;
  if (weight === undefined || weight.includes('lora_')) return false;
  const original = open(base.folder);
  try {
    const tied = original.has(`${weight}.weight`) ? weight : 'model.embed_tokens';
    if (!['lm_head', 'model.embed_tokens'].includes(weight) || !original.has(`${tied}.weight`)) return false;
    const [ours, theirs] = [original.readFloat32Sync(`${tied}.weight`), reader.readFloat32Sync(name)];
    if (ours.length === theirs.length && ours.every((value, at) => value === theirs[at])) return true;
    throw new EngineError(
      'user',
      `${ADAPTER}: "${name}" differs from ${base.name}'s own: a changed embedding or head cannot be imported, base weights are frozen.`,
    );
  } finally {
    original.close();
  }
}

/** Both parts of each module, and each kind of module in every layer or in none. */
function checkWhole(found: Found, modules: LoraModule[]): void {
  if (found.size === 0) throw new EngineError('user', `${ADAPTER}: it holds no LoRA tensors.`);
  for (const module of modules) {
    const names = found.get(module.path);
    if (names && !(names.A && names.B)) {
      const missing = parameterName(module.path, names.A ? 'lora_B' : 'lora_A');
      throw new EngineError('user', `${ADAPTER}: tensor "${missing}" is missing.`);
    }
  }
  for (const key of new Set(modules.map((module) => module.key))) {
    const alike = modules.filter((module) => module.key === key);
    const missing = alike.find((module) => !found.has(module.path));
    const present = alike.find((module) => found.has(module.path));
    if (missing && present) {
      throw new EngineError(
        'user',
        `${ADAPTER}: it adapts ${present.path} but not ${missing.path}: adapters of some layers only cannot be imported.`,
      );
    }
  }
}

function checkShapes(found: Found, modules: LoraModule[], lora: LoraSpec): void {
  const { inFeatures: hiddenSize } = modules.at(-1)!;
  const { rank } = lora;
  if (rank > hiddenSize) {
    throw new EngineError(
      'user',
      `${ADAPTER_CONFIG}: r is ${rank}, more than the hidden size ${hiddenSize}.`,
    );
  }
  for (const module of modules) {
    for (const part of ['A', 'B'] as const) {
      const tensor = found.get(module.path)?.[part];
      if (tensor) expectFoundShape(tensor, shapeOf(module, part, lora), rank);
    }
  }
}

function specOf(
  found: Found,
  modules: LoraModule[],
  { rank, alpha }: { rank: number; alpha: number },
): LoraSpec {
  const has = (group: LoraModule['group']) =>
    modules.some((module) => module.group === group && found.has(module.path));
  return {
    rank,
    alpha,
    seed: randomBytes(8).readBigUInt64LE(),
    trainAttn: has('attn'),
    trainMlp: has('mlp'),
    trainUnembed: has('unembed'),
    ...(formOf(found, modules) === 'split' ? { splitFused: true } : {}),
    ...(modules.some((module) => hasOneSide(module, found.get(module.path))) ? { shareExperts: true } : {}),
  };
}

function hasOneSide({ experts }: LoraModule, pair: FoundPair | undefined): boolean {
  if (!experts || experts.count === 1) return false;
  return pair?.[experts.shared === 'a' ? 'A' : 'B']?.shape[0] === 1;
}

/** How fused maps are adapted, if any is. */
function formOf(found: Found, modules: LoraModule[]): LoraModule['form'] {
  const [whole, part] = (['fused', 'split'] as const).map((form) =>
    modules.find((module) => module.form === form && found.has(module.path)),
  );
  if (!whole || !part) return (whole ?? part)?.form;
  throw new EngineError(
    'user',
    `${ADAPTER}: it adapts both ${whole.path} and ${part.path}: fused maps can be adapted whole or by their parts.`,
  );
}

function modulesOf({ folder }: ImportBase): LoraModule[] {
  const json: unknown = JSON.parse(readText(folder, 'config.json'));
  const architecture = findArchitecture(json);
  const config = architecture.parseConfig(json);
  const layers = Array.from({ length: config.numLayers }, (_, layer) =>
    architecture.layerModules(config, layer),
  );
  return [...layers.flat(), headModule(config)];
}

function shapeOf(module: LoraModule, part: 'A' | 'B', spec: LoraShapeSpec): number[] {
  const { a, b } = loraShapes(module, spec);
  return part === 'A' ? a : b;
}

function readText(folder: string, name: string): string {
  try {
    return readFileSync(path.join(folder, name), 'utf8');
  } catch (cause) {
    throw new EngineError('user', `${folder} has no ${name} that can be read: ${(cause as Error).message}`, {
      cause,
    });
  }
}

function open(folder: string, name = ''): SafetensorsReader {
  try {
    return openSafetensors(path.join(folder, name));
  } catch (cause) {
    const other = existsSync(path.join(folder, 'adapter_model.bin'))
      ? ' The adapter is an old .bin file: save it again with PEFT (safe_serialization=True).'
      : '';
    throw new EngineError('user', `${(cause as Error).message}${other}`, { cause });
  }
}

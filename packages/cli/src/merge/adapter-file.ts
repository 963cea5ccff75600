/** A LoRA adapter in PEFT's format, to be merged into the model that it is for. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { readPeftConfig } from '@anneal/engine';
import { openSafetensors, type SafetensorsReader } from '@anneal/safetensors';
import { z } from 'zod';
import { CliError, usageError } from '../errors.ts';

const CONFIG = 'adapter_config.json';
const WEIGHTS = 'adapter_model.safetensors';
const PARAMETER = /^base_model\.model\.(?<module>.+)\.lora_(?<part>[AB])\.weight$/;
/** With the head among its targets, PEFT also writes copies of the base's embedding and head. */
const BASE_COPY = /^base_model\.model\.(?<module>.+?)(?:\.base_layer)?\.weight$/;
const EXPERTS = /\.experts(\.|$)/;
/** How exports name the head, here and at the hosted service. */
const EXPORTED_HEAD = 'model.unembed_tokens';

/** The product's two factors, by their names in the file: A [rank, in] and B [out, rank]. */
export interface Factors {
  a: string;
  b: string;
}

export interface AdapterFile {
  reader: SafetensorsReader;
  /** What B·A of a module is multiplied by. */
  scaleOf: (module: string) => number;
  /** By the path of the module, as the base model names its weight without `.weight`. */
  modules: ReadonlyMap<string, Factors>;
  /** Tensors that must equal the base's: module path → name in the file. */
  copies: ReadonlyMap<string, string>;
}

/**
 * Opens the adapter in `folder`; its reader is the caller's to close.
 *
 * @throws CliError when there is none, or it is none that can be merged
 */
export function openAdapter(folder: string): AdapterFile {
  for (const file of [CONFIG, WEIGHTS]) {
    if (!existsSync(join(folder, file))) throw usageError(`${folder} is no LoRA adapter: it has no ${file}`);
  }
  const reader = openSafetensors(join(folder, WEIGHTS));
  try {
    // Experts first: their configurations differ in ways that would be refused for less telling reasons.
    const sorted = sort(reader);
    return { reader, scaleOf: readScales(readFileSync(join(folder, CONFIG), 'utf8')), ...sorted };
  } catch (error) {
    reader.close();
    throw error;
  }
}

function sort(reader: SafetensorsReader): Pick<AdapterFile, 'modules' | 'copies'> {
  const parts = new Map<string, Partial<Factors>>();
  const copies = new Map<string, string>();
  for (const { name } of reader.tensors) {
    if (EXPERTS.test(name)) {
      throw new CliError(
        `the adapter is on experts ("${name}"), which cannot be merged yet: use it with PEFT, or serve it`,
      );
    }
    const { module: given = '', part } = PARAMETER.exec(name)?.groups ?? {};
    const module = given === EXPORTED_HEAD ? 'lm_head' : given;
    const copied = BASE_COPY.exec(name)?.groups?.module;
    if (part) parts.set(module, { ...parts.get(module), [part === 'A' ? 'a' : 'b']: name });
    else if (copied !== undefined) copies.set(copied, name);
    else throw new CliError(`${WEIGHTS}: tensor "${name}" is not of LoRA: it cannot be merged`);
  }
  const modules = new Map<string, Factors>();
  for (const [module, { a, b }] of parts) {
    if (!a || !b)
      throw new CliError(`${WEIGHTS}: ${module} has lora_${a ? 'A' : 'B'} but not the other factor`);
    modules.set(module, { a, b });
  }
  if (modules.size === 0) throw new CliError(`${WEIGHTS}: it holds no LoRA tensors`);
  return { modules, copies };
}

/** PEFT takes the keys as patterns of what a path ends with; names alone are told apart here. */
const Pattern = z
  .record(
    z.string().regex(/^[\w.]+$/, 'only names of modules can be merged, not patterns'),
    z.number().positive(),
  )
  .nullish();
const Patterns = z.looseObject({
  rank_pattern: Pattern,
  alpha_pattern: Pattern,
  use_rslora: z.boolean().nullish(),
});

/** @throws CliError for patterns of names, or of ranks that rsLoRA would scale each by its own root */
function readScales(text: string): AdapterFile['scaleOf'] {
  const parsed = Patterns.safeParse(parseJson(text));
  if (!parsed.success) throw new CliError(`${CONFIG}: ${z.prettifyError(parsed.error)}`);
  const { rank_pattern: ranks, alpha_pattern: alphas, ...rest } = parsed.data;
  const patterned = { ...ranks, ...alphas };
  if (rest.use_rslora && Object.keys(patterned).length > 0)
    throw new CliError(`${CONFIG}: rank_pattern and alpha_pattern cannot be merged together with use_rslora`);
  const { rank, alpha } = readPeftConfig(JSON.stringify(rest));
  const own = (pattern: Record<string, number> | null | undefined, module: string) =>
    Object.entries(pattern ?? {}).find(([name]) => `.${module}`.endsWith(`.${name}`))?.[1];
  return (module) => (own(alphas, module) ?? alpha) / (own(ranks, module) ?? rank);
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new CliError(`${CONFIG} is no JSON: ${(error as Error).message}`, { cause: error });
  }
}

const NamesBase = z.object({ base_model_name_or_path: z.string().min(1).nullish() });

/** The base model that the adapter in `folder` names, where it names one. */
export function baseNamedBy(folder: string): string | undefined {
  const config: unknown = JSON.parse(readFileSync(join(folder, CONFIG), 'utf8'));
  return NamesBase.parse(config).base_model_name_or_path ?? undefined;
}

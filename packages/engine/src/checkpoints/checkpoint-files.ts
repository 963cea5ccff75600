/**
 * Checkpoint folders: the adapter in PEFT's format (`adapter_model.safetensors`, `adapter_config.json`), what PEFT has no
 * field for in `anneal.json`, and for training checkpoints the Adam moments in `optimizer.safetensors`.
 */
import { existsSync, readFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import path from 'node:path';
import {
  openSafetensors,
  type SafetensorsReader,
  type TensorToWrite,
  writeSafetensors,
} from '@anneal/safetensors';
import { type Tensor, tf } from '@anneal/tensorflow';
import { z } from 'zod';
import { EngineError, type LoraSpec } from '../engine.ts';
import { LoraAdapter } from '../lora/adapter.ts';
import { loraShapes } from '../lora/shapes.ts';
import type { ExpertLayout, LoraModule } from '../models/architecture.ts';
import type { BaseModel } from '../models/base-model.ts';
import { type AdamState, zeroMoments } from '../optimizer/adamw.ts';

export const ADAPTER = 'adapter_model.safetensors';
export const ADAPTER_CONFIG = 'adapter_config.json';
const OPTIMIZER = 'optimizer.safetensors';
const MANIFEST = 'anneal.json';

const Manifest = z.object({
  format: z.literal(1),
  base_model: z.string(),
  step: z.number().int().nonnegative(),
  lora: z.object({
    rank: z.number().int().positive(),
    alpha: z.number().positive(),
    seed: z
      .string()
      .regex(/^-?\d+$/)
      .optional(),
    train_attn: z.boolean(),
    train_mlp: z.boolean(),
    train_unembed: z.boolean(),
    share_experts: z.boolean().optional(),
    split_fused: z.boolean().optional(),
  }),
  /** Of models with experts: how transformers holds them. */
  expert_layout: z.enum(['apart', 'alternating', 'joined']).optional(),
});
type Manifest = z.infer<typeof Manifest>;

/** PEFT's name of a module's A or B. */
export function parameterName(modulePath: string, part: 'lora_A' | 'lora_B'): string {
  return `base_model.model.${modulePath}.${part}.weight`;
}

/** Parameter names in the order of `adapter.parameters()`, as PEFT writes them. */
function parameterNames(adapter: LoraAdapter): string[] {
  return adapter
    .modules()
    .flatMap(({ module: { path } }) => [parameterName(path, 'lora_A'), parameterName(path, 'lora_B')]);
}

function tensorsToWrite(names: string[], tensors: Tensor[]): TensorToWrite[] {
  return tensors.map((tensor, i) => ({
    name: names[i]!,
    dtype: 'F32',
    shape: tensor.shape,
    data: () => tensor.dataSync() as Float32Array,
  }));
}

/** Writes an adapter, and its optimizer state where given; every file is on the disk when this returns. */
export async function writeCheckpoint(
  dir: string,
  baseModel: string,
  adapter: LoraAdapter,
  optimizer?: AdamState,
): Promise<void> {
  const names = parameterNames(adapter);
  const modules = adapter.modules().map(({ module }) => module);
  await writeAdapter(dir, {
    baseModel,
    lora: adapter.spec,
    step: optimizer?.step ?? 0,
    modules,
    tensors: tensorsToWrite(names, adapter.parameters()),
  });
  if (!optimizer) return;
  const { moments } = optimizer;
  const { m, v } = moments ?? zeroMoments(adapter.parameters());
  const prefixed = (prefix: string) => names.map((name) => `${prefix}.${name}`);
  const tensors = [...tensorsToWrite(prefixed('m'), m), ...tensorsToWrite(prefixed('v'), v)];
  await writeSafetensors(path.join(dir, OPTIMIZER), tensors);
  if (!moments) tf.dispose([...m, ...v]);
}

/** What is written of an adapter, wherever its values are. */
export interface AdapterToWrite extends CheckpointInfo {
  modules: readonly LoraModule[];
  /** A and B of each module, named by {@link parameterName}. */
  tensors: TensorToWrite[];
}

/** Writes the files of an adapter, without an optimizer's state. */
export async function writeAdapter(dir: string, adapter: AdapterToWrite): Promise<void> {
  await writeSafetensors(path.join(dir, ADAPTER), adapter.tensors, { format: 'pt' });
  await writeJson(path.join(dir, ADAPTER_CONFIG), peftConfig(adapter));
  await writeJson(path.join(dir, MANIFEST), manifestOf(adapter));
}

function manifestOf({ baseModel, lora: spec, step, modules }: AdapterToWrite): Manifest {
  const layout = modules.find((module) => module.experts)?.experts?.layout;
  return {
    format: 1,
    base_model: baseModel,
    step,
    lora: {
      rank: spec.rank,
      alpha: spec.alpha,
      ...(spec.seed === undefined ? {} : { seed: spec.seed.toString() }),
      train_attn: spec.trainAttn,
      train_mlp: spec.trainMlp,
      train_unembed: spec.trainUnembed,
      ...(spec.shareExperts ? { share_experts: true } : {}),
      ...(spec.splitFused ? { split_fused: true } : {}),
    },
    ...(layout ? { expert_layout: layout } : {}),
  };
}

function peftConfig({ baseModel, lora, modules }: AdapterToWrite): Record<string, unknown> {
  const targets = new Set(modules.map((module) => module.path.split('.').at(-1)));
  return {
    peft_type: 'LORA',
    task_type: 'CAUSAL_LM',
    base_model_name_or_path: baseModel,
    r: lora.rank,
    lora_alpha: lora.alpha,
    lora_dropout: 0,
    bias: 'none',
    fan_in_fan_out: false,
    inference_mode: true,
    init_lora_weights: true,
    target_modules: [...targets].sort(),
  };
}

async function writeJson(file: string, value: unknown): Promise<void> {
  const handle = await open(file, 'w');
  try {
    await handle.writeFile(`${JSON.stringify(value, null, 2)}\n`);
    await handle.sync();
  } finally {
    await handle.close();
  }
}

export interface CheckpointInfo {
  baseModel: string;
  step: number;
  lora: LoraSpec;
}

/**
 * How transformers holds the experts that a checkpoint adapts.
 * @throws EngineError (user) when it adapts none
 */
export function readExpertLayout(dir: string): ExpertLayout {
  const { expert_layout: layout } = readManifest(dir);
  if (layout) return layout;
  throw new EngineError('user', `The checkpoint's ${MANIFEST} is damaged: expert_layout is missing.`);
}

/** @throws EngineError (user) when the folder is no checkpoint of ours or is damaged. */
function readManifest(dir: string): Manifest {
  let json: unknown;
  try {
    json = JSON.parse(readFileSync(path.join(dir, MANIFEST), 'utf8'));
  } catch (cause) {
    throw new EngineError('user', `The checkpoint cannot be read: ${(cause as Error).message}`, { cause });
  }
  const parsed = Manifest.safeParse(json);
  if (!parsed.success)
    throw new EngineError(
      'user',
      `The checkpoint's ${MANIFEST} is damaged:\n${z.prettifyError(parsed.error)}`,
    );
  return parsed.data;
}

/** @throws EngineError (user) when the folder is no checkpoint of ours or is damaged. */
export function readCheckpointInfo(dir: string): CheckpointInfo {
  const { base_model, step, lora } = readManifest(dir);
  return {
    baseModel: base_model,
    step,
    lora: {
      rank: lora.rank,
      alpha: lora.alpha,
      ...(lora.seed === undefined ? {} : { seed: BigInt(lora.seed) }),
      trainAttn: lora.train_attn,
      trainMlp: lora.train_mlp,
      trainUnembed: lora.train_unembed,
      ...(lora.share_experts ? { shareExperts: true } : {}),
      ...(lora.split_fused ? { splitFused: true } : {}),
    },
  };
}

/** Loads the adapter of a checkpoint folder onto `base`. */
export function readAdapter(dir: string, base: BaseModel, spec: LoraSpec): LoraAdapter {
  return withReader(path.join(dir, ADAPTER), (reader) =>
    LoraAdapter.from(base, spec, (module) => {
      const shapes = loraShapes(module, spec);
      return {
        a: readParameter(reader, parameterName(module.path, 'lora_A'), shapes.a),
        b: readParameter(reader, parameterName(module.path, 'lora_B'), shapes.b),
      };
    }),
  );
}

/** Loads Adam moments to go with an adapter read from the same folder. */
export function readOptimizer(dir: string, adapter: LoraAdapter, step: number): AdamState {
  if (!existsSync(path.join(dir, OPTIMIZER))) {
    throw new EngineError(
      'user',
      'The checkpoint holds no optimizer state, as an imported adapter: load its weights without the optimizer.',
    );
  }
  const names = parameterNames(adapter);
  const parameters = adapter.parameters();
  return withReader(path.join(dir, OPTIMIZER), (reader) => {
    const moments = (prefix: 'm' | 'v') =>
      names.map((name, i) => {
        const shape = parameters[i]!.shape;
        return tf.tensor(readParameter(reader, `${prefix}.${name}`, shape), shape);
      });
    return { step, moments: { m: moments('m'), v: moments('v') } };
  });
}

function withReader<T>(file: string, body: (reader: SafetensorsReader) => T): T {
  let reader: SafetensorsReader;
  try {
    reader = openSafetensors(file);
  } catch (cause) {
    throw new EngineError('user', `The checkpoint cannot be read: ${(cause as Error).message}`, { cause });
  }
  try {
    return body(reader);
  } finally {
    reader.close();
  }
}

function readParameter(reader: SafetensorsReader, name: string, shape: number[]): Float32Array {
  if (!reader.has(name))
    throw new EngineError(
      'user',
      `The checkpoint has no tensor "${name}": it belongs to another base model, or is damaged.`,
    );
  const found = reader.info(name).shape;
  if (found.join() !== shape.join()) {
    throw new EngineError(
      'user',
      `The checkpoint's tensor "${name}" has shape [${found.join(', ')}], the base model needs [${shape.join(', ')}].`,
    );
  }
  return reader.readFloat32Sync(name);
}

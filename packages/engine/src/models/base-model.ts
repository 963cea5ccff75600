/** A base model's frozen weights on the device, loaded tensor by tensor, shared by every adapter and sampler. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { float32ToBfloat16, openSafetensors, type SafetensorsReader } from '@anneal/safetensors';
import { bfloat16Tensor, type Tensor, tf, upload } from '@anneal/tensorflow';
import { EngineError } from '../engine.ts';
import type { Architecture, DecoderConfig, LoraModule } from './architecture.ts';
import { findArchitecture } from './registry.ts';
import { RopeTables } from './rope-tables.ts';

export type Precision = 'fp32' | 'bf16';

export class BaseModel {
  readonly folder: string;
  readonly architecture: Architecture;
  readonly config: DecoderConfig;
  readonly precision: Precision;
  /** [vocab, hidden] */
  readonly embed: Tensor;
  /** Per layer, by the architecture's local names. */
  readonly layers: Record<string, Tensor>[];
  readonly finalNorm: Tensor;
  /** [vocab, hidden]; the embedding itself where they are tied. */
  readonly head: Tensor;
  /** Per layer: rotary tables, and how far its attention reaches (absent: everywhere). */
  readonly attention: { rope: RopeTables; window?: number }[];

  private constructor(
    folder: string,
    architecture: Architecture,
    config: DecoderConfig,
    precision: Precision,
  ) {
    this.folder = folder;
    this.architecture = architecture;
    this.config = config;
    this.precision = precision;
    const reader = openWeights(folder);
    const outer = architecture.outerTensors(config);
    this.embed = loadTensor(reader, outer.embed, precision);
    this.finalNorm = loadTensor(reader, outer.finalNorm, precision);
    this.head = outer.head ? loadTensor(reader, outer.head, precision) : this.embed;
    this.layers = Array.from({ length: config.numLayers }, (_, layer) =>
      Object.fromEntries(
        Object.entries(architecture.layerTensors(config, layer)).map(([key, name]) => [
          key,
          loadTensor(reader, name, precision),
        ]),
      ),
    );
    reader.close();
    this.attention = layerAttention(architecture, config);
    expectShape(this.embed, [config.vocabSize, config.hiddenSize], outer.embed);
    expectShape(this.head, [config.vocabSize, config.hiddenSize], outer.head ?? outer.embed);
  }

  /**
   * Loads a Hugging Face checkpoint folder.
   * @param precision `bf16` keeps matrices in bfloat16; norms stay float32.
   * @throws EngineError (user) for an unsupported architecture, a missing or misshapen tensor, or weights that are not finite.
   */
  static load(folder: string, precision: Precision): BaseModel {
    const json = readJson(path.join(folder, 'config.json'));
    const architecture = findArchitecture(json);
    const config = architecture.parseConfig(json);
    const generation = readJsonIfThere(path.join(folder, 'generation_config.json')) as
      | { eos_token_id?: number | number[] }
      | undefined;
    if (generation?.eos_token_id !== undefined)
      config.eosTokenIds = [...new Set([config.eosTokenIds, generation.eos_token_id].flat())];
    return new BaseModel(folder, architecture, config, precision);
  }

  /** Linear maps that LoRA can adapt, per layer, and the head's as the last element of its own. */
  layerModules(layer: number): LoraModule[] {
    return this.architecture.layerModules(this.config, layer);
  }

  headModule(): LoraModule {
    return headModule(this.config);
  }

  dispose(): void {
    tf.dispose([this.embed, this.finalNorm, ...this.layers.flatMap((layer) => Object.values(layer))]);
    if (this.head !== this.embed) this.head.dispose();
    for (const { rope } of this.attention) rope.dispose();
  }
}

/** The head as a LoRA module; with tied embeddings only its use as the head is adapted. */
export function headModule({ hiddenSize, vocabSize }: DecoderConfig): LoraModule {
  return {
    key: 'unembed',
    path: 'lm_head',
    group: 'unembed',
    inFeatures: hiddenSize,
    outFeatures: vocabSize,
  };
}

/** Layers with the same rope share its tables. */
function layerAttention(architecture: Architecture, config: DecoderConfig): BaseModel['attention'] {
  const tables = new Map<string, RopeTables>();
  return Array.from({ length: config.numLayers }, (_, layer) => {
    const { rope, window } = architecture.layerAttention?.(config, layer) ?? { rope: config.rope };
    const key = JSON.stringify(rope);
    const shared = tables.get(key) ?? new RopeTables(rope, config.maxContextLength);
    tables.set(key, shared);
    return { rope: shared, window };
  });
}

function openWeights(folder: string): SafetensorsReader {
  try {
    return openSafetensors(folder);
  } catch (cause) {
    throw new EngineError('user', `The model's weights cannot be read: ${(cause as Error).message}`, {
      cause,
    });
  }
}

function loadTensor(reader: SafetensorsReader, name: string, precision: Precision): Tensor {
  if (!reader.has(name))
    throw new EngineError('user', `The checkpoint has no tensor "${name}", which its config.json asks for.`);
  const info = reader.info(name);
  const shape = [...info.shape];
  if (precision === 'bf16' && shape.length >= 2) {
    if (info.dtype === 'BF16') {
      const bytes = reader.readSync(name);
      return bfloat16Tensor(new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 2), shape);
    }
    return bfloat16Tensor(float32ToBfloat16(finite(reader.readFloat32Sync(name), name)), shape);
  }
  return upload(tf.tensor(finite(reader.readFloat32Sync(name), name), shape, 'float32'));
}

function finite(values: Float32Array, name: string): Float32Array {
  for (let i = 0; i < values.length; i++) {
    if (!Number.isFinite(values[i]))
      throw new EngineError(
        'user',
        `Tensor "${name}" of the checkpoint holds ${values[i]} at element ${i}: weights must be finite.`,
      );
  }
  return values;
}

function expectShape(tensor: Tensor, shape: number[], name: string): void {
  if (tensor.shape.join() !== shape.join()) {
    throw new EngineError(
      'user',
      `Tensor "${name}" has shape [${tensor.shape.join(', ')}], config.json says [${shape.join(', ')}].`,
    );
  }
}

function readJson(file: string): unknown {
  try {
    return JSON.parse(readFileSync(file, 'utf8'));
  } catch (cause) {
    throw new EngineError('user', `${file} cannot be read as JSON: ${(cause as Error).message}`, { cause });
  }
}

function readJsonIfThere(file: string): unknown {
  try {
    return JSON.parse(readFileSync(file, 'utf8'));
  } catch {
    return undefined;
  }
}

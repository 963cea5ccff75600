/** A base model's frozen weights on the device, loaded tensor by tensor, shared by every adapter and sampler. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { openSafetensors, type SafetensorsReader } from '@anneal/safetensors';
import { type MatmulPrecision, multipliesBfloat16, type Tensor, tf } from '@anneal/tensorflow';
import { EngineError } from '../engine.ts';
import { ImageEncoder } from '../vision/image-encoder.ts';
import { type ImageProcessor, readImageProcessor } from '../vision/image-processor.ts';
import type { Architecture, CacheShape, DecoderConfig, LoraModule } from './architecture.ts';
import { findArchitecture } from './registry.ts';
import { RopeTables } from './rope-tables.ts';
import { expectShape, loadWeight, type Precision } from './weight-source.ts';

export class BaseModel {
  readonly folder: string;
  readonly architecture: Architecture;
  readonly config: DecoderConfig;
  /** In what the compiled functions of this model multiply. */
  readonly matmulPrecision: MatmulPrecision;
  /** [vocab, hidden] */
  readonly embed: Tensor;
  /** Per layer, by the architecture's local names. */
  readonly layers: Record<string, Tensor>[];
  readonly finalNorm: Tensor;
  /** [vocab, hidden]; the embedding itself where they are tied. */
  readonly head: Tensor;
  /** Per layer: rotary tables, and how far its attention reaches (absent: everywhere). */
  readonly attention: { rope: RopeTables; window?: number }[];
  /** Of models that read images. */
  readonly imageProcessor: ImageProcessor | undefined;
  readonly vision: ImageEncoder | undefined;

  private constructor(
    folder: string,
    architecture: Architecture,
    config: DecoderConfig,
    precision: Precision,
    matmulPrecision: MatmulPrecision,
  ) {
    this.folder = folder;
    this.architecture = architecture;
    this.config = config;
    this.matmulPrecision = matmulPrecision;
    const reader = openWeights(folder);
    const outer = architecture.outerTensors(config);
    this.embed = loadWeight(reader, outer.embed, precision);
    this.finalNorm = loadWeight(reader, outer.finalNorm, precision);
    this.head = outer.head ? loadWeight(reader, outer.head, precision) : this.embed;
    this.layers = Array.from({ length: config.numLayers }, (_, layer) =>
      Object.fromEntries(
        Object.entries(architecture.layerTensors(config, layer)).map(([key, source]) => [
          key,
          loadWeight(reader, source, precision),
        ]),
      ),
    );
    const { vision } = config;
    // Text-only checkpoints may keep the `vision_config` of what they were made from, but have no tower.
    if (vision && reader.has(`${vision.root}.patch_embed.proj.weight`)) {
      this.imageProcessor = readImageProcessor(folder, vision);
      this.vision = new ImageEncoder(reader, vision, this.imageProcessor, { precision, matmulPrecision });
    }
    reader.close();
    this.attention = layerAttention(architecture, config);
    expectShape(this.embed.shape, [config.vocabSize, config.hiddenSize], outer.embed);
    expectShape(this.head.shape, [config.vocabSize, config.hiddenSize], outer.head ?? outer.embed);
  }

  /**
   * Loads a Hugging Face checkpoint folder.
   * @param precision How its matrices are kept.
   * @param matmulPrecision In what they are multiplied; by default in bfloat16 where `precision` asks for it and it pays.
   * @throws EngineError (user) for an unsupported architecture, a missing or misshapen tensor, or weights that are not finite.
   */
  static load(folder: string, precision: Precision, matmulPrecision = productsOf(precision)): BaseModel {
    const json = readJson(path.join(folder, 'config.json'));
    const architecture = findArchitecture(json);
    const config = architecture.parseConfig(json);
    const generation = readJsonIfThere(path.join(folder, 'generation_config.json')) as
      | { eos_token_id?: number | number[] }
      | undefined;
    if (generation?.eos_token_id !== undefined)
      config.eosTokenIds = [...new Set([config.eosTokenIds, generation.eos_token_id].flat())];
    return new BaseModel(folder, architecture, config, precision, matmulPrecision);
  }

  /** Linear maps that LoRA can adapt, per layer, and the head's as the last element of its own. */
  layerModules(layer: number): LoraModule[] {
    return this.architecture.layerModules(this.config, layer);
  }

  /** What a decode cache keeps of each layer. */
  cacheShapes(): CacheShape[] {
    const { numKvHeads: heads, headDim } = this.config;
    const usual = { heads, keyDim: headDim, valueDim: headDim };
    return this.layers.map((_, layer) => this.architecture.cacheShape?.(this.config, layer) ?? usual);
  }

  headModule(): LoraModule {
    return headModule(this.config);
  }

  dispose(): void {
    tf.dispose([this.embed, this.finalNorm, ...this.layers.flatMap((layer) => Object.values(layer))]);
    if (this.head !== this.embed) this.head.dispose();
    for (const { rope } of this.attention) rope.dispose();
    this.vision?.dispose();
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

function productsOf(precision: Precision): MatmulPrecision {
  return precision === 'bf16' && multipliesBfloat16() ? 'bf16' : 'fp32';
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

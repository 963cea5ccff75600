/** A base model: what its checkpoint folder says it is, and its frozen weights on the device, shared by every adapter and sampler. */
import type { SafetensorsReader } from '@anneal/safetensors';
import { backendInfo, type MatmulPrecision, multipliesBfloat16, type Tensor, tf } from '@anneal/tensorflow';
import { ImageEncoder } from '../vision/image-encoder.ts';
import { type ImageProcessor, readImageProcessor } from '../vision/image-processor.ts';
import type { Architecture, CacheShape, DecoderConfig, LoraModule } from './architecture.ts';
import {
  hasTower,
  type ModelKind,
  openWeights,
  readKind,
  totalBytes,
  withWeights,
} from './checkpoint-folder.ts';
import { RopeTables } from './rope-tables.ts';
import { expectShape, loadWeight, type Precision, type WeightSource } from './weight-source.ts';

interface Weights {
  /** [vocab, hidden] */
  embed: Tensor;
  finalNorm: Tensor;
  /** [vocab, hidden]; the embedding itself where they are tied. */
  head: Tensor;
  /** Per layer, by the architecture's local names. */
  layers: Record<string, Tensor>[];
  vision: ImageEncoder | undefined;
}

export class BaseModel {
  readonly folder: string;
  readonly architecture: Architecture;
  readonly config: DecoderConfig;
  /** In what the compiled functions of this model multiply. */
  readonly matmulPrecision: MatmulPrecision;
  /** Bytes that the weights take on the device. */
  readonly weightBytes: number;
  /** Per layer: rotary tables, and how far its attention reaches (absent: everywhere). */
  readonly attention: { rope: RopeTables; window?: number }[];
  /** Of models that read images; known before the weights are there. */
  readonly imageProcessor: ImageProcessor | undefined;
  readonly #precision: Precision;
  #weights: Weights | undefined;

  private constructor(
    folder: string,
    { architecture, config }: ModelKind,
    precision: Precision,
    matmulPrecision: MatmulPrecision,
  ) {
    this.folder = folder;
    this.architecture = architecture;
    this.config = config;
    this.matmulPrecision = matmulPrecision;
    this.#precision = precision;
    const kind = { architecture, config };
    this.weightBytes = withWeights(folder, (reader) =>
      totalBytes(reader, kind, precision, backendInfo().compiled),
    );
    const { vision } = config;
    const sees = vision && withWeights(folder, (reader) => hasTower(reader, vision));
    this.imageProcessor = sees ? readImageProcessor(folder, vision) : undefined;
    this.attention = layerAttention(architecture, config);
  }

  /**
   * Reads a Hugging Face checkpoint folder's config.json and headers; weights come by {@link loading}.
   * @param precision How its matrices are kept.
   * @param matmulPrecision In what they are multiplied; by default in bfloat16 where `precision` asks for it and it pays.
   * @throws EngineError (user) for an unsupported architecture, or a tensor that is missing.
   */
  static open(folder: string, precision: Precision, matmulPrecision = productsOf(precision)): BaseModel {
    return new BaseModel(folder, readKind(folder), precision, matmulPrecision);
  }

  /**
   * {@link open}, and loads the weights.
   * @throws EngineError (user) also for a misshapen tensor, or weights that are not finite.
   */
  static load(folder: string, precision: Precision, matmulPrecision = productsOf(precision)): BaseModel {
    const base = BaseModel.open(folder, precision, matmulPrecision);
    for (const _ of base.loading());
    return base;
  }

  /**
   * Loads the weights tensor by tensor, yielding after each; ended early, it frees what it has.
   * @throws EngineError (user) for a tensor that is missing, misshapen or not finite.
   */
  *loading(): Generator<void, void> {
    if (this.#weights) return;
    const { architecture, config } = this;
    const reader = openWeights(this.folder);
    const loaded: Tensor[] = [];
    const load = (source: WeightSource): Tensor => {
      const tensor = loadWeight(reader, source, this.#precision);
      loaded.push(tensor);
      return tensor;
    };
    try {
      const outer = architecture.outerTensors(config);
      const matrix = [config.vocabSize, config.hiddenSize];
      const embed = load(outer.embed);
      expectShape(embed.shape, matrix, outer.embed);
      yield;
      const head = outer.head ? load(outer.head) : embed;
      expectShape(head.shape, matrix, outer.head ?? outer.embed);
      yield;
      const finalNorm = load(outer.finalNorm);
      const layers: Weights['layers'] = [];
      for (let layer = 0; layer < config.numLayers; layer++) {
        const weights: Record<string, Tensor> = {};
        for (const [key, source] of Object.entries(architecture.layerTensors(config, layer))) {
          weights[key] = load(source);
          yield;
        }
        layers.push(weights);
      }
      const vision = this.#loadVision(reader);
      this.#weights = { embed, finalNorm, head, layers, vision };
    } finally {
      reader.close();
      if (!this.#weights) tf.dispose(loaded);
    }
  }

  get isLoaded(): boolean {
    return this.#weights !== undefined;
  }

  /** [vocab, hidden] */
  get embed(): Tensor {
    return this.#loaded().embed;
  }

  /** Per layer, by the architecture's local names. */
  get layers(): Record<string, Tensor>[] {
    return this.#loaded().layers;
  }

  get finalNorm(): Tensor {
    return this.#loaded().finalNorm;
  }

  /** [vocab, hidden]; the embedding itself where they are tied. */
  get head(): Tensor {
    return this.#loaded().head;
  }

  /** Of models that read images. */
  get vision(): ImageEncoder | undefined {
    return this.#loaded().vision;
  }

  #loadVision(reader: SafetensorsReader): ImageEncoder | undefined {
    const { imageProcessor, matmulPrecision } = this;
    const { vision } = this.config;
    if (!vision || !imageProcessor) return undefined;
    return new ImageEncoder(reader, vision, imageProcessor, { precision: this.#precision, matmulPrecision });
  }

  #loaded(): Weights {
    if (this.#weights) return this.#weights;
    throw new Error(`the weights of ${this.folder} are not loaded`);
  }

  /** Linear maps that LoRA can adapt, per layer, and the head's as the last element of its own. */
  layerModules(layer: number): LoraModule[] {
    return this.architecture.layerModules(this.config, layer);
  }

  /** What a decode cache keeps of each layer. */
  cacheShapes(): CacheShape[] {
    const { numKvHeads: heads, headDim } = this.config;
    const usual = { heads, keyDim: headDim, valueDim: headDim };
    return Array.from(
      { length: this.config.numLayers },
      (_, layer) => this.architecture.cacheShape?.(this.config, layer) ?? usual,
    );
  }

  headModule(): LoraModule {
    return headModule(this.config);
  }

  /** Frees the weights; they can be loaded again. */
  unload(): void {
    if (!this.#weights) return;
    const { embed, finalNorm, head, layers, vision } = this.#weights;
    this.#weights = undefined;
    vision?.dispose();
    tf.dispose([embed, finalNorm, ...layers.flatMap((layer) => Object.values(layer))]);
    if (head !== embed) head.dispose();
    for (const { rope } of this.attention) rope.dispose();
  }

  dispose(): void {
    this.unload();
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

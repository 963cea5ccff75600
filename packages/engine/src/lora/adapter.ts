/** A LoRA adapter's weights: one A and B per adapted module, float32, keyed by the checkpoint's module path. */
import { randomBytes } from 'node:crypto';
import { type Tensor, tf } from '@anneal/tensorflow';
import { EngineError, type LoraSpec } from '../engine.ts';
import type { LoraTensors } from '../layers/linear.ts';
import type { LoraModule } from '../models/architecture.ts';
import type { BaseModel } from '../models/base-model.ts';
import { randomKey, uniformArray } from '../random/counter-random.ts';
import { type LoraShapeSpec, loraShapes, sizeOf } from './shapes.ts';

/** Host values of one module's pair, of the shapes that {@link loraShapes} says. */
export interface LoraPair {
  a: Float32Array;
  b: Float32Array;
}

/** An adapted module and its two parameters on the device. */
export interface AdaptedModule {
  module: LoraModule;
  a: Tensor;
  b: Tensor;
}

export class LoraAdapter {
  readonly spec: LoraSpec;
  /** Per layer, then the head's (if adapted) apart. */
  readonly layers: AdaptedModule[][];
  readonly head: AdaptedModule | undefined;

  private constructor(spec: LoraSpec, layers: AdaptedModule[][], head: AdaptedModule | undefined) {
    this.spec = spec;
    this.layers = layers;
    this.head = head;
  }

  /** A fresh adapter: A uniform in ±1/√in (Kaiming-uniform with a = √5), B zero, so that it equals the base model. */
  static create(base: BaseModel, spec: LoraSpec): LoraAdapter {
    checkSpec(base, spec);
    const seed = spec.seed ?? randomBytes(8).readBigUInt64LE();
    return LoraAdapter.from(base, spec, (module) => ({
      a: initialA(module, spec, seed),
      b: new Float32Array(sizeOf(loraShapes(module, spec).b)),
    }));
  }

  /** An adapter whose values come from `values`, called once per module. */
  static from(base: BaseModel, spec: LoraSpec, values: (module: LoraModule) => LoraPair): LoraAdapter {
    const adapt = (module: LoraModule): AdaptedModule => {
      const { a, b } = values(module);
      const shapes = loraShapes(module, spec);
      return { module, a: tf.tensor(a, shapes.a), b: tf.tensor(b, shapes.b) };
    };
    const wanted = (module: LoraModule) => isTrained(spec, module);
    const layers = Array.from({ length: base.config.numLayers }, (_, layer) =>
      base.layerModules(layer).filter(wanted).map(adapt),
    );
    const head = spec.trainUnembed ? adapt(base.headModule()) : undefined;
    return new LoraAdapter(spec, layers, head);
  }

  get scale(): number {
    return this.spec.alpha / this.spec.rank;
  }

  /** All adapted modules, layers first. */
  modules(): AdaptedModule[] {
    return [...this.layers.flat(), ...(this.head ? [this.head] : [])];
  }

  /** A and B of every module in a fixed order: a₀, b₀, a₁, b₁, … */
  parameters(): Tensor[] {
    return this.modules().flatMap(({ a, b }) => [a, b]);
  }

  /** Takes over new parameter tensors (in the order of {@link parameters}) and frees the old ones. */
  replaceParameters(next: Tensor[]): void {
    this.modules().forEach((adapted, i) => {
      tf.dispose([adapted.a, adapted.b]);
      adapted.a = next[2 * i]!;
      adapted.b = next[2 * i + 1]!;
    });
  }

  /** A layer's adapters by module key, as the layer function looks them up. */
  layerTensors(layer: number): Record<string, LoraTensors> {
    return Object.fromEntries(
      this.layers[layer]!.map(({ module, a, b }) => [module.key, { a, b, scale: this.scale }]),
    );
  }

  headTensors(): LoraTensors | undefined {
    return this.head && { a: this.head.a, b: this.head.b, scale: this.scale };
  }

  /** A frozen copy that further training of this one does not touch. */
  snapshot(): LoraAdapter {
    const copy = (adapted: AdaptedModule): AdaptedModule => ({
      module: adapted.module,
      a: tf.clone(adapted.a),
      b: tf.clone(adapted.b),
    });
    return new LoraAdapter(
      this.spec,
      this.layers.map((layer) => layer.map(copy)),
      this.head && copy(this.head),
    );
  }

  /** Host copies, by module path. */
  read(): Map<string, LoraPair> {
    return new Map(
      this.modules().map(({ module, a, b }) => [
        module.path,
        { a: a.dataSync() as Float32Array, b: b.dataSync() as Float32Array },
      ]),
    );
  }

  dispose(): void {
    tf.dispose(this.parameters());
  }
}

/** A fresh module's A, the same for the same seed. */
export function initialA(module: LoraModule, spec: LoraShapeSpec, seed: bigint): Float32Array {
  const { a } = loraShapes(module, spec);
  return uniformArray(randomKey(module.path, seed), sizeOf(a), 1 / Math.sqrt(module.inFeatures));
}

/** Whether an adapter has this module. */
export function isTrained(spec: LoraSpec, { group, form }: LoraModule): boolean {
  if (form && form !== (spec.splitFused ? 'split' : 'fused')) return false;
  return { attn: spec.trainAttn, mlp: spec.trainMlp, unembed: spec.trainUnembed }[group];
}

function checkSpec(base: BaseModel, spec: LoraSpec): void {
  if (!spec.trainAttn && !spec.trainMlp && !spec.trainUnembed) {
    throw new EngineError(
      'user',
      'lora_config selects no module: set train_attn, train_mlp or train_unembed.',
    );
  }
  const { hiddenSize } = base.config;
  if (!Number.isInteger(spec.rank) || spec.rank < 1 || spec.rank > hiddenSize) {
    throw new EngineError(
      'user',
      `lora_config.rank is ${spec.rank}: it must be an integer from 1 to ${hiddenSize}, the model's hidden size.`,
    );
  }
}

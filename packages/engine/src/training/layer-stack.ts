/** The decoder layers of one base model, forward and backward, layer by layer. */
import { compile, type Tensor, tf } from '@anneal/tensorflow';
import { causalMaskValues } from '../layers/attention.ts';
import { embed } from '../layers/embedding.ts';
import type { BaseModel } from '../models/base-model.ts';
import { type PlacedImages, withDeepstack, withFeatures } from '../vision/placed-images.ts';
import {
  compiledLayers,
  type LayerPass,
  type LayerRunner,
  layersTrainNatively,
  nativeLayers,
} from './layer-runner.ts';
import type { PassAdapters } from './pass-adapters.ts';

/** Causal masks kept for reuse; one of 4096 positions takes 64 MB. */
const MAX_MASKS = 8;

/** What the backward pass needs of a forward one. Dispose it when no backward follows. */
export interface ForwardRecord {
  /** Input of each layer, [batch, time, hidden]. */
  inputs: Tensor[];
  residuals: Tensor[][];
  recompute: boolean;
  images: PlacedImages | undefined;
}

export class LayerStack {
  readonly #base: BaseModel;
  readonly #compiled: LayerRunner;
  /** For passes without images, where the model's layers are such. */
  readonly #native: LayerRunner | undefined;
  readonly #embed: (inputs: { ids: Tensor; table: Tensor }) => { x: Tensor };
  readonly #masks = new Map<string, Tensor>();

  constructor(base: BaseModel) {
    this.#base = base;
    this.#compiled = compiledLayers(base);
    this.#native = layersTrainNatively(base) ? nativeLayers(base) : undefined;
    this.#embed = compile('embed', ({ ids, table }) => ({ x: embed(ids, table, base.config.embedScale) }), {
      matmulPrecision: base.matmulPrecision,
    });
  }

  /** What a pass keeps per token of sequences of this length for the backward pass, in all layers. */
  keptBytesPerToken(length: number, hasImages: boolean): number {
    const runner = this.#runner(hasImages);
    return this.#base.layers.reduce((sum, _, layer) => sum + runner.keptBytesPerToken(layer, length), 0);
  }

  /**
   * Runs the layers without keeping anything.
   * @param ids int32 [batch, time]
   * @param images What images put into it; stays the caller's
   * @returns Hidden states before the final norm, [batch, time, hidden].
   */
  forward(
    ids: Tensor,
    adapters: PassAdapters | undefined,
    images?: PlacedImages,
    onLayer?: (layer: number, x: Tensor) => void,
  ): Tensor {
    let x = this.#embedded(ids, images);
    for (let layer = 0; layer < this.#base.layers.length; layer++) {
      const y = this.#runner(images !== undefined).plain(this.#pass(layer, x, adapters, images));
      x.dispose();
      x = withDeepstack(y, layer, images);
      onLayer?.(layer, x);
    }
    return x;
  }

  /**
   * Runs the layers and keeps what {@link backward} needs. With `recompute` that is each layer's input only.
   * @param images As for {@link forward}; needed until the backward pass is through
   */
  forwardForTraining(
    ids: Tensor,
    adapters: PassAdapters,
    recompute: boolean,
    images?: PlacedImages,
  ): { x: Tensor; record: ForwardRecord } {
    const record: ForwardRecord = { inputs: [], residuals: [], recompute, images };
    let x = this.#embedded(ids, images);
    for (let layer = 0; layer < this.#base.layers.length; layer++) {
      const pass = this.#pass(layer, x, adapters, images);
      const { output, residuals } = this.#runner(images !== undefined).forward(pass, recompute);
      record.inputs.push(x);
      record.residuals.push(residuals);
      // What deepstack adds is constant, so the output's gradient is the sum's.
      x = withDeepstack(output, layer, images);
    }
    return { x, record };
  }

  /**
   * Gradients of each distinct adapter's A and B in the layers, in the order of its parameters. Frees the record and `dx`.
   * @param dx Gradient of the last layer's output, [batch, time, hidden].
   */
  backward(record: ForwardRecord, adapters: PassAdapters, dx: Tensor): Tensor[][] {
    const { lowest } = adapters;
    const perLayer: Tensor[][][] = [];
    let dy = dx;
    for (let layer = this.#base.layers.length - 1; layer >= Math.max(lowest, 0) && lowest >= 0; layer--) {
      const pass = this.#pass(layer, record.inputs[layer]!, adapters, record.images);
      const runner = this.#runner(record.images !== undefined);
      const made = runner.backward(pass, record.residuals[layer]!, dy, record.recompute);
      dy.dispose();
      if (made.dx) dy = made.dx;
      perLayer.unshift(made.grads);
      tf.dispose([record.inputs[layer]!, ...record.residuals[layer]!]);
    }
    if (!dy.isDisposed) dy.dispose();
    disposeRecord(record);
    return adapters.distinct.map((_, i) => perLayer.flatMap((grads) => grads[i]!));
  }

  dispose(): void {
    tf.dispose([...this.#masks.values()]);
    this.#masks.clear();
  }

  #embedded(ids: Tensor, images: PlacedImages | undefined): Tensor {
    return withFeatures(this.#embed({ ids, table: this.#base.embed }).x, images);
  }

  #runner(hasImages: boolean): LayerRunner {
    return (hasImages ? undefined : this.#native) ?? this.#compiled;
  }

  #pass(
    layer: number,
    x: Tensor,
    adapters: PassAdapters | undefined,
    images: PlacedImages | undefined,
  ): LayerPass {
    const time = x.shape[1] as number;
    const { rope, window = time } = this.#base.attention[layer]!;
    return {
      x,
      weights: this.#base.layers[layer]!,
      layer,
      adapters,
      rope: images?.ropes.get(rope) ?? rope.upTo(time),
      mask: () => this.#mask(time, window),
      window,
      needsDx: layer !== (adapters?.lowest ?? -1),
    };
  }

  #mask(time: number, window: number): Tensor {
    const key = `${time} ${Math.min(window, time)}`;
    let mask = this.#masks.get(key);
    if (!mask) {
      mask = tf.tensor4d(causalMaskValues(time, window), [1, 1, time, time]);
      this.#masks.set(key, mask);
      this.#dropOldestMask();
    }
    return mask;
  }

  #dropOldestMask(): void {
    if (this.#masks.size <= MAX_MASKS) return;
    const [key, mask] = this.#masks.entries().next().value as [string, Tensor];
    mask.dispose();
    this.#masks.delete(key);
  }
}

/** Frees what is left of a forward pass. */
export function disposeRecord(record: ForwardRecord): void {
  tf.dispose([...record.inputs, ...record.residuals.flat()].filter((tensor) => !tensor.isDisposed));
}

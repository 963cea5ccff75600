/** The decoder layers of one base model, forward and backward, layer by layer through compiled functions. */
import { type CompiledVjp, compile, compileVjp, type Tensor, tf } from '@anneal/tensorflow';
import { attendCausally, causalMaskValues } from '../layers/attention.ts';
import { embed } from '../layers/embedding.ts';
import type { LoraTensors } from '../layers/linear.ts';
import type { BaseModel } from '../models/base-model.ts';
import { type PlacedImages, withDeepstack, withFeatures } from '../vision/placed-images.ts';
import { loraOfRows, type PassAdapters } from './pass-adapters.ts';

/** Causal masks kept for reuse; one of 4096 positions takes 64 MB. */
const MAX_MASKS = 8;

interface LayerTree {
  [key: string]:
    | Tensor
    | boolean
    | undefined
    | { [key: string]: Tensor | { [key: string]: Tensor | number } };
  /** [batch, time, hidden] */
  x: Tensor;
  weights: Record<string, Tensor>;
  lora: Record<string, { a: Tensor; b: Tensor; scale: number }>;
  /** int32 [batch], where rows have adapters of their own */
  adapterOfRow: Tensor | undefined;
  rope: { cos: Tensor; sin: Tensor };
  /** [1, 1, time, time] */
  mask: Tensor;
  /** False for the lowest layer, below which nothing is trained. */
  needsDx: boolean;
}

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
  readonly #saving: CompiledVjp<LayerTree>;
  readonly #recomputing: CompiledVjp<LayerTree>;
  readonly #plain: (inputs: LayerTree) => { y: Tensor };
  readonly #embed: (inputs: { ids: Tensor; table: Tensor }) => { x: Tensor };
  readonly #masks = new Map<string, Tensor>();

  constructor(base: BaseModel) {
    this.#base = base;
    const options = { matmulPrecision: base.matmulPrecision };
    const layer = ({ x, weights, lora, adapterOfRow, rope, mask }: LayerTree): Tensor => {
      return base.architecture.layer(base.config, {
        x,
        weights,
        lora: loraOfRows(lora, adapterOfRow),
        rope,
        attend: (q, k, v, options) =>
          attendCausally(q, k, v, mask, base.config.attentionScale, options?.sinks),
        state: {},
        decoding: false,
      });
    };
    const wrt = ({ x, lora, needsDx }: LayerTree) => [
      ...(needsDx ? [x] : []),
      ...Object.values(lora).flatMap(({ a, b }) => [a, b]),
    ];
    this.#saving = compileVjp('layer', layer, wrt, { ...options, residuals: 'save' });
    this.#recomputing = compileVjp('layer', layer, wrt, { ...options, residuals: 'recompute' });
    this.#plain = compile('layer', (inputs: LayerTree) => ({ y: layer(inputs) }), options);
    this.#embed = compile(
      'embed',
      ({ ids, table }) => ({ x: embed(ids, table, base.config.embedScale) }),
      options,
    );
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
      const { y } = this.#plain(this.#tree(layer, x, adapters, images));
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
    const vjp = recompute ? this.#recomputing : this.#saving;
    const record: ForwardRecord = { inputs: [], residuals: [], recompute, images };
    let x = this.#embedded(ids, images);
    for (let layer = 0; layer < this.#base.layers.length; layer++) {
      const { output, residuals } = vjp.forward(this.#tree(layer, x, adapters, images));
      record.inputs.push(x);
      record.residuals.push(residuals);
      // What deepstack adds is constant, so the output's gradient is the sum's.
      x = withDeepstack(output, layer, images);
    }
    return { x, record };
  }

  /**
   * Gradients of the layers' A and B, for each layer from the lowest adapted one on. Frees the record and `dx`.
   * @param dx Gradient of the last layer's output, [batch, time, hidden].
   */
  backward(record: ForwardRecord, adapters: PassAdapters, dx: Tensor): Tensor[][] {
    const vjp = record.recompute ? this.#recomputing : this.#saving;
    const { lowest } = adapters;
    const perLayer: Tensor[][] = [];
    let dy = dx;
    for (let layer = this.#base.layers.length - 1; layer >= Math.max(lowest, 0) && lowest >= 0; layer--) {
      const tree = this.#tree(layer, record.inputs[layer]!, adapters, record.images);
      const grads = vjp.backward(tree, record.residuals[layer]!, dy);
      dy.dispose();
      if (tree.needsDx) dy = grads.shift() as Tensor;
      perLayer.unshift(grads);
      tf.dispose([record.inputs[layer]!, ...record.residuals[layer]!]);
    }
    if (!dy.isDisposed) dy.dispose();
    disposeRecord(record);
    return perLayer;
  }

  dispose(): void {
    tf.dispose([...this.#masks.values()]);
    this.#masks.clear();
  }

  #embedded(ids: Tensor, images: PlacedImages | undefined): Tensor {
    return withFeatures(this.#embed({ ids, table: this.#base.embed }).x, images);
  }

  #tree(
    layer: number,
    x: Tensor,
    adapters: PassAdapters | undefined,
    images: PlacedImages | undefined,
  ): LayerTree {
    const time = x.shape[1] as number;
    const { rope, window } = this.#base.attention[layer]!;
    return {
      x,
      weights: this.#base.layers[layer]!,
      lora: (adapters?.layers[layer] ?? {}) as Record<
        string,
        LoraTensors & { [key: string]: Tensor | number }
      >,
      rope: (images?.ropes.get(rope) ?? rope.upTo(time)) as { cos: Tensor; sin: Tensor },
      mask: this.#mask(time, window),
      adapterOfRow: adapters?.adapterOfRow,
      needsDx: layer !== (adapters?.lowest ?? -1),
    };
  }

  #mask(time: number, window = time): Tensor {
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

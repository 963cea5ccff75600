/** The decoder layers of one base model, forward and backward, layer by layer through compiled functions. */
import { type CompiledVjp, compile, compileVjp, type Tensor, tf } from '@anneal/tensorflow';
import { attend, causalMaskValues } from '../layers/attention.ts';
import { embed } from '../layers/embedding.ts';
import type { LoraTensors } from '../layers/linear.ts';
import type { LoraAdapter } from '../lora/adapter.ts';
import type { BaseModel } from '../models/base-model.ts';

/** Causal masks kept for reuse; one of 4096 positions takes 64 MB. */
const MAX_MASKS = 8;

interface LayerTree {
  [key: string]: Tensor | boolean | { [key: string]: Tensor | { [key: string]: Tensor | number } };
  /** [batch, time, hidden] */
  x: Tensor;
  weights: Record<string, Tensor>;
  lora: Record<string, { a: Tensor; b: Tensor; scale: number }>;
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
    const layer = ({ x, weights, lora, rope, mask }: LayerTree): Tensor => {
      return base.architecture.layer(base.config, {
        x,
        weights,
        lora,
        rope,
        attend: (q, k, v, options) => attend(q, k, v, mask, base.config.attentionScale, options?.sinks),
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
   * @returns Hidden states before the final norm, [batch, time, hidden].
   */
  forward(
    ids: Tensor,
    adapter: LoraAdapter | undefined,
    onLayer?: (layer: number, x: Tensor) => void,
  ): Tensor {
    let { x } = this.#embed({ ids, table: this.#base.embed });
    for (let layer = 0; layer < this.#base.layers.length; layer++) {
      const { y } = this.#plain(this.#tree(layer, x, adapter));
      x.dispose();
      x = y;
      onLayer?.(layer, x);
    }
    return x;
  }

  /** Runs the layers and keeps what {@link backward} needs. With `recompute` that is each layer's input only. */
  forwardForTraining(
    ids: Tensor,
    adapter: LoraAdapter,
    recompute: boolean,
  ): { x: Tensor; record: ForwardRecord } {
    const vjp = recompute ? this.#recomputing : this.#saving;
    const record: ForwardRecord = { inputs: [], residuals: [], recompute };
    let { x } = this.#embed({ ids, table: this.#base.embed });
    for (let layer = 0; layer < this.#base.layers.length; layer++) {
      const { output, residuals } = vjp.forward(this.#tree(layer, x, adapter));
      record.inputs.push(x);
      record.residuals.push(residuals);
      x = output;
    }
    return { x, record };
  }

  /**
   * Gradients of the adapter's layer parameters, in the order of `adapter.layers`. Frees the record and `dx`.
   * @param dx Gradient of the last layer's output, [batch, time, hidden].
   */
  backward(record: ForwardRecord, adapter: LoraAdapter, dx: Tensor): Tensor[] {
    const vjp = record.recompute ? this.#recomputing : this.#saving;
    const lowest = adapter.layers.findIndex((modules) => modules.length > 0);
    const perLayer: Tensor[][] = [];
    let dy = dx;
    for (let layer = this.#base.layers.length - 1; layer >= Math.max(lowest, 0) && lowest >= 0; layer--) {
      const tree = this.#tree(layer, record.inputs[layer]!, adapter);
      const grads = vjp.backward(tree, record.residuals[layer]!, dy);
      dy.dispose();
      if (tree.needsDx) dy = grads.shift() as Tensor;
      perLayer.unshift(grads);
      tf.dispose([record.inputs[layer]!, ...record.residuals[layer]!]);
    }
    if (!dy.isDisposed) dy.dispose();
    disposeRecord(record);
    return perLayer.flat();
  }

  dispose(): void {
    tf.dispose([...this.#masks.values()]);
    this.#masks.clear();
  }

  #tree(layer: number, x: Tensor, adapter: LoraAdapter | undefined): LayerTree {
    const time = x.shape[1] as number;
    const lowest = adapter ? adapter.layers.findIndex((modules) => modules.length > 0) : -1;
    const { rope, window } = this.#base.attention[layer]!;
    return {
      x,
      weights: this.#base.layers[layer]!,
      lora: (adapter?.layerTensors(layer) ?? {}) as Record<
        string,
        LoraTensors & { [key: string]: Tensor | number }
      >,
      rope: rope.upTo(time) as { cos: Tensor; sin: Tensor },
      mask: this.#mask(time, window),
      needsDx: layer !== lowest,
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

/** The adapters of one training pass: one for all of its rows, or several side by side, each for rows of its own. */
import { compile, type Tensor, tf } from '@anneal/tensorflow';
import type { LoraTensors } from '../layers/linear.ts';
import type { LoraAdapter } from '../lora/adapter.ts';
import { type StackedAdapters, stackAdapters } from '../lora/adapter-stack.ts';

export class PassAdapters {
  readonly distinct: LoraAdapter[];
  /** int32 [rows]: which adapter is each row's; absent with one adapter. */
  readonly adapterOfRow: Tensor | undefined;
  /** Lowest layer with something to train; −1: there is none. */
  readonly lowest: number;
  #stacked: StackedAdapters | undefined;

  /** @param rows The adapter of each row. */
  constructor(rows: LoraAdapter[]) {
    this.distinct = [...new Set(rows)];
    const lowest = this.distinct.map(({ layers }) => layers.findIndex((modules) => modules.length > 0));
    this.lowest = Math.min(...lowest.filter((layer) => layer >= 0));
    if (!Number.isFinite(this.lowest)) this.lowest = -1;
    if (this.distinct.length > 1)
      this.adapterOfRow = tf.tensor1d(
        rows.map((adapter) => this.distinct.indexOf(adapter)),
        'int32',
      );
  }

  /** Each distinct adapter's own A and B in a layer, by module key. */
  own(layer: number): Record<string, LoraTensors>[] {
    return this.distinct.map((adapter) => adapter.layerTensors(layer));
  }

  /** By module key; with several adapters, A and B have one more dimension in front. */
  stacked(layer: number): Record<string, LoraTensors> {
    this.#stacked ??= stackAdapters(this.distinct, this.distinct[0]!.layers.length);
    return this.#stacked.layers[layer]!;
  }

  /**
   * Gradients of each adapter's A and B in a layer, in the order of its parameters.
   * @param grads Of what {@link stacked} is; freed where that was stacked
   */
  split(layer: number, grads: Tensor[]): Tensor[][] {
    if (!this.adapterOfRow) return [grads];
    const result: Tensor[][] = this.distinct.map(() => []);
    const keys = Object.keys(this.stacked(layer));
    const cuts = this.distinct.flatMap(({ layers, spec, scale }, adapter) =>
      layers[layer]!.flatMap(({ module }): Cut[] => {
        const at = 2 * keys.indexOf(module.key);
        // A was stacked times the adapter's scale.
        return [
          { tensor: at, adapter, rank: spec.rank, factor: scale },
          { tensor: at + 1, adapter, rank: spec.rank, factor: 1 },
        ];
      }),
    );
    const parts = cuts.length > 0 ? cut({ grads, cuts }) : [];
    parts.forEach((part, i) => {
      result[cuts[i]!.adapter]!.push(part);
    });
    tf.dispose(grads);
    return result;
  }

  /** Frees what was made for the pass. */
  dispose(): void {
    tf.dispose([...(this.adapterOfRow ? [this.adapterOfRow] : []), ...(this.#stacked?.owned ?? [])]);
  }
}

/** Each row's own A and B where a pass has several adapters; their gradients add up by adapter. */
export function loraOfRows(
  lora: Record<string, LoraTensors>,
  adapterOfRow: Tensor | undefined,
): Record<string, LoraTensors> {
  if (!adapterOfRow) return lora;
  const pick = (stacked: Tensor) => tf.gather(stacked, adapterOfRow as never) as Tensor;
  return Object.fromEntries(
    Object.entries(lora).map(([key, { a, b, scale }]) => [key, { a: pick(a), b: pick(b), scale }]),
  );
}

interface Cut {
  [key: string]: number;
  tensor: number;
  adapter: number;
  rank: number;
  factor: number;
}

const cut = compile('split_gradients', ({ grads, cuts }: { grads: Tensor[]; cuts: Cut[] }) =>
  cuts.map(({ tensor, adapter, rank, factor }) => {
    const stacked = grads[tensor]!;
    const [, first, second] = stacked.shape as [number, number, number];
    const isA = tensor % 2 === 0;
    const shape: [number, number] = isA ? [rank, second] : [first, rank];
    const own = tf.slice(stacked, [adapter, 0, 0], [1, ...shape]);
    return tf.mul(tf.reshape(own, shape), factor) as Tensor;
  }),
);

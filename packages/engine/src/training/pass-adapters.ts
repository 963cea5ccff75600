/** The adapters of one training pass: one for all of its rows, or several side by side, each for rows of its own. */
import { compile, type Tensor, tf } from '@anneal/tensorflow';
import type { LoraTensors } from '../layers/linear.ts';
import type { LoraAdapter } from '../lora/adapter.ts';
import { stackAdapters } from '../lora/adapter-stack.ts';

export interface PassAdapters {
  distinct: LoraAdapter[];
  /** By module key; with several adapters, A and B have one more dimension in front. */
  layers: Record<string, LoraTensors>[];
  /** int32 [rows]: which adapter is each row's; absent with one adapter. */
  adapterOfRow: Tensor | undefined;
  /** Lowest layer with something to train; −1: there is none. */
  lowest: number;
  /** Tensors to free with the pass. */
  owned: Tensor[];
}

/** @param rows The adapter of each row. */
export function passAdapters(rows: LoraAdapter[], numLayers: number): PassAdapters {
  const distinct = [...new Set(rows)];
  const { layers, owned } = stackAdapters(distinct, numLayers);
  const lowest = layers.findIndex((modules) => Object.keys(modules).length > 0);
  if (distinct.length === 1) return { distinct, layers, adapterOfRow: undefined, lowest, owned };
  const adapterOfRow = tf.tensor1d(
    rows.map((adapter) => distinct.indexOf(adapter)),
    'int32',
  );
  return { distinct, layers, adapterOfRow, lowest, owned: [...owned, adapterOfRow] };
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

/**
 * Gradients of each adapter, in the order of its layers' parameters. Frees `perLayer` where it was stacked.
 * @param perLayer For each layer from `pass.lowest` on: A and B by module key.
 */
export function splitByAdapter(pass: PassAdapters, perLayer: Tensor[][]): Tensor[][] {
  if (!pass.adapterOfRow) return [perLayer.flat()];
  const result: Tensor[][] = pass.distinct.map(() => []);
  perLayer.forEach((grads, i) => {
    const layer = pass.lowest + i;
    const keys = Object.keys(pass.layers[layer]!);
    const cuts = pass.distinct.flatMap(({ layers, spec, scale }, adapter) =>
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
    parts.forEach((part, j) => {
      result[cuts[j]!.adapter]!.push(part);
    });
    tf.dispose(grads);
  });
  return result;
}

/** Puts the adapters of a decode batch side by side, so that rows of different adapters share every matrix product. */
import { compile, type Tensor, type Tree, tf } from '@anneal/tensorflow';
import type { LoraTensors } from '../layers/linear.ts';
import type { AdaptedModule, LoraAdapter } from './adapter.ts';

/** Adapters as the layer functions take them: per layer by module key, and the head's. */
export interface StackedAdapters {
  layers: Record<string, LoraTensors>[];
  head: LoraTensors | undefined;
  /** Tensors made for the stack, to be freed with it; none when an adapter's own tensors are used. */
  owned: Tensor[];
}

interface Part {
  [key: string]: Tree;
  tensors: Tensor[];
  factors: number[];
  /** Shape that each is padded to with zeros, or where experts share a matrix, repeated to. */
  shape: number[];
}

const stack = compile('stack_adapters', ({ parts }: { parts: Part[] }) =>
  parts.map(({ tensors, factors, shape }) =>
    tf.stack(tensors.map((tensor, i) => tf.mul(fit(tensor, shape), factors[i] as number))),
  ),
);

function fit(tensor: Tensor, shape: number[]): Tensor {
  const repeated =
    shape.length === 3 && tensor.shape[0] !== shape[0] ? tf.tile(tensor, [shape[0] as number, 1, 1]) : tensor;
  const missing = shape.map((dim, axis) => dim - (repeated.shape[axis] as number));
  if (missing.every((count) => count === 0)) return repeated;
  return tf.pad(
    repeated,
    missing.map((count) => [0, count]),
  );
}

/** Adapters for rows `rows[i]`; `undefined` is the base model. */
export function stackAdapters(rows: (LoraAdapter | undefined)[], numLayers: number): StackedAdapters {
  const distinct = [...new Set(rows)];
  if (distinct.length === 1) {
    const only = rows[0];
    const layers = Array.from({ length: numLayers }, (_, layer) => only?.layerTensors(layer) ?? {});
    return { layers, head: only?.headTensors(), owned: [] };
  }
  const layers = Array.from({ length: numLayers }, (_, layer) => {
    const moduleOf = (adapter: LoraAdapter | undefined, key: string) =>
      adapter?.layers[layer]?.find(({ module }) => module.key === key);
    const keys = new Set(
      distinct.flatMap((adapter) => adapter?.layers[layer]?.map(({ module }) => module.key) ?? []),
    );
    return [...keys].map((key) => ({
      key,
      // Experts' matrices are many: they are stacked once per adapter, not once per row.
      entries: (distinct.some((adapter) => moduleOf(adapter, key)?.module.experts) ? distinct : rows).map(
        (adapter) => find(adapter, moduleOf(adapter, key)),
      ),
    }));
  });
  const headEntries = rows.some((adapter) => adapter?.head)
    ? rows.map((adapter) => find(adapter, adapter?.head))
    : undefined;
  const wanted = [...layers.flat().map(({ entries }) => entries), ...(headEntries ? [headEntries] : [])];
  const stacked = wanted.length > 0 ? stackEntries(wanted) : [];
  const adapterOfRow = tf.tensor1d(
    rows.map((adapter) => distinct.indexOf(adapter)),
    'int32',
  );
  let next = 0;
  const take = (): LoraTensors => {
    const { a, b } = stacked[next++]!;
    return { a, b, scale: 1, ...(a.rank === 4 ? { rows: adapterOfRow } : {}) };
  };
  const byLayer = layers.map((modules) => Object.fromEntries(modules.map(({ key }) => [key, take()])));
  const head = headEntries && take();
  return { layers: byLayer, head, owned: [adapterOfRow, ...stacked.flatMap(({ a, b }) => [a, b])] };
}

interface Entry {
  scale: number;
  adapted: AdaptedModule | undefined;
}

function find(adapter: LoraAdapter | undefined, adapted: AdaptedModule | undefined): Entry {
  return { scale: adapter?.scale ?? 0, adapted };
}

/** Rows without the module borrow a neighbour's tensors with factor 0. */
function stackEntries(modules: Entry[][]): { a: Tensor; b: Tensor }[] {
  const parts = modules.flatMap((entries) => {
    const some = entries.find((entry) => entry.adapted)!.adapted!;
    const factors = entries.map(({ adapted, scale }) => (adapted ? scale : 0));
    const part = (side: 'a' | 'b', factors: number[]): Part => {
      const tensors = entries.map(({ adapted }) => (adapted ?? some)[side]);
      const shape = some[side].shape.map((_, axis) =>
        Math.max(...tensors.map((t) => t.shape[axis] as number)),
      );
      return { tensors, factors, shape };
    };
    return [
      part('a', factors),
      part(
        'b',
        factors.map((f) => (f === 0 ? 0 : 1)),
      ),
    ];
  });
  const tensors = stack({ parts });
  return modules.map((_, i) => ({ a: tensors[2 * i]!, b: tensors[2 * i + 1]! }));
}

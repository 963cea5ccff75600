/** Puts the adapters of a decode batch side by side, so that rows of different adapters share every matrix product. */
import { compile, type Tensor, tf } from '@anneal/tensorflow';
import type { LoraTensors } from '../layers/linear.ts';
import type { AdaptedModule, LoraAdapter } from '../lora/adapter.ts';

/** Adapters as the layer functions take them: per layer by module key, and the head's. */
export interface StackedAdapters {
  layers: Record<string, LoraTensors>[];
  head: LoraTensors | undefined;
  /** Tensors made for the stack, to be freed with it; none when an adapter's own tensors are used. */
  owned: Tensor[];
}

const stack = compile(
  'stack_adapters',
  ({ parts }: { parts: { tensors: Tensor[]; factors: number[]; rank: number; axis: number }[] }) =>
    parts.map(({ tensors, factors, rank, axis }) =>
      tf.stack(tensors.map((tensor, i) => tf.mul(padRank(tensor, rank, axis), factors[i] as number))),
    ),
);

function padRank(tensor: Tensor, rank: number, axis: number): Tensor {
  const missing = rank - (tensor.shape[axis] as number);
  if (missing === 0) return tensor;
  return tf.pad(tensor, [0, 1].map((a) => [0, a === axis ? missing : 0]) as [number, number][]);
}

/** Adapters for rows `rows[i]`; `undefined` is the base model. */
export function stackAdapters(rows: (LoraAdapter | undefined)[], numLayers: number): StackedAdapters {
  const distinct = new Set(rows);
  if (distinct.size === 1) {
    const only = rows[0];
    const layers = Array.from({ length: numLayers }, (_, layer) => only?.layerTensors(layer) ?? {});
    return { layers, head: only?.headTensors(), owned: [] };
  }
  const layers = Array.from({ length: numLayers }, (_, layer) => {
    const keys = new Set(
      rows.flatMap((adapter) => adapter?.layers[layer]?.map(({ module }) => module.key) ?? []),
    );
    return [...keys].map((key) => ({
      key,
      entries: rows.map((adapter) =>
        find(
          adapter,
          adapter?.layers[layer]?.find((m) => m.module.key === key),
        ),
      ),
    }));
  });
  const headEntries = rows.some((adapter) => adapter?.head)
    ? rows.map((adapter) => find(adapter, adapter?.head))
    : undefined;
  const wanted = [...layers.flat().map(({ entries }) => entries), ...(headEntries ? [headEntries] : [])];
  const stacked = wanted.length > 0 ? stackEntries(wanted) : [];
  let next = 0;
  const take = (): LoraTensors => ({ ...stacked[next++]!, scale: 1 });
  const byLayer = layers.map((modules) => Object.fromEntries(modules.map(({ key }) => [key, take()])));
  const head = headEntries && take();
  return { layers: byLayer, head, owned: stacked.flatMap(({ a, b }) => [a, b]) };
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
    const rank = Math.max(...entries.map(({ adapted }) => adapted?.a.shape[0] ?? 0));
    const factors = entries.map(({ adapted, scale }) => (adapted ? scale : 0));
    return [
      { tensors: entries.map(({ adapted }) => (adapted ?? some).a), factors, rank, axis: 0 },
      {
        tensors: entries.map(({ adapted }) => (adapted ?? some).b),
        factors: factors.map((f) => (f === 0 ? 0 : 1)),
        rank,
        axis: 1,
      },
    ];
  });
  const tensors = stack({ parts });
  return modules.map((_, i) => ({ a: tensors[2 * i]!, b: tensors[2 * i + 1]! }));
}

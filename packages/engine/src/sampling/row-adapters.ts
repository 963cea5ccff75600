/** The adapters of rows as native calls take them, which read B transposed. */
import {
  compile,
  type LowRankTensors,
  layerAdapterIds,
  lowRankIds,
  type Tensor,
  tf,
} from '@anneal/tensorflow';
import type { AdaptedModule, LoraAdapter } from '../lora/adapter.ts';

/** See `FusedLayersCall`. */
export interface RowAdapters {
  adapters: Int32Array;
  scales: Float32Array;
  adapterOfRow: Int32Array;
}

/** Adapters that are kept besides those of the rows at hand. */
const KEPT_ADAPTERS = 16;

interface Kept {
  layers: Int32Array;
  head: Int32Array;
  transposed: Tensor[];
}

/** What the calls need of each adapter besides its own tensors, kept until others have been used since. */
export class RowAdapterTensors {
  /** Least recently used first. */
  readonly #kept = new Map<LoraAdapter, Kept>();

  /**
   * For rows `rows[i]`; `undefined` is the base model.
   * @param part Whether the ids are those of all layers or of the head; where an adapter leaves the head alone, its rows have none
   */
  of(rows: (LoraAdapter | undefined)[], part: 'layers' | 'head'): RowAdapters {
    const distinct = [...new Set(rows)].filter((adapter) => adapter !== undefined);
    const parts = distinct.map((adapter) => this.#keptOf(adapter)[part]);
    for (const adapter of [...this.#kept.keys()].slice(0, -Math.max(distinct.length, KEPT_ADAPTERS)))
      this.forget(adapter);
    const indices = new Map(distinct.map((adapter, i) => [adapter, i]));
    return {
      adapters: joined(parts),
      scales: Float32Array.from(distinct, ({ scale }) => scale),
      adapterOfRow: Int32Array.from(rows, (row) => (row ? indices.get(row)! : -1)),
    };
  }

  forget(adapter: LoraAdapter): void {
    tf.dispose(this.#kept.get(adapter)?.transposed ?? []);
    this.#kept.delete(adapter);
  }

  dispose(): void {
    for (const adapter of [...this.#kept.keys()]) this.forget(adapter);
  }

  #keptOf(adapter: LoraAdapter): Kept {
    const kept = this.#kept.get(adapter) ?? transpose(adapter);
    this.#kept.delete(adapter);
    this.#kept.set(adapter, kept);
    return kept;
  }
}

function joined(parts: Int32Array[]): Int32Array {
  const all = new Int32Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

const transposeAll = compile('transpose_adapter', ({ matrices }: { matrices: Tensor[] }) =>
  matrices.map((matrix) => tf.transpose(matrix) as Tensor),
);

function transpose(adapter: LoraAdapter): Kept {
  const modules = adapter.modules();
  const transposed = modules.length > 0 ? transposeAll({ matrices: modules.map(({ b }) => b) }) : [];
  const pairs = new Map(
    modules.map((adapted, i) => [adapted, [adapted.a, transposed[i]!] as LowRankTensors]),
  );
  const byKey = (layer: AdaptedModule[]) =>
    Object.fromEntries(layer.map((adapted) => [adapted.module.key, pairs.get(adapted)]));
  return {
    layers: layerAdapterIds(adapter.layers.map(byKey)),
    head: lowRankIds([adapter.head && pairs.get(adapter.head)]),
    transposed,
  };
}

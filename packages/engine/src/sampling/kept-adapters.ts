/** The adapters of rows as native calls take them: by number. */
import { dropAdapter, keepAdapter } from '@anneal/tensorflow';
import type { AdaptedModule, LoraAdapter } from '../lora/adapter.ts';

/** See `FusedLayersCall`. */
export interface RowAdapters {
  adapters: Int32Array;
  adapterOfRow: Int32Array;
}

/** Adapters that are kept besides those of the rows at hand. */
const KEPT_ADAPTERS = 16;

/** Copies of adapters in the form that the calls read, kept until others have been used since. */
export class KeptAdapters {
  readonly #narrow: boolean;
  /** Their numbers, least recently used first. */
  readonly #numbers = new Map<LoraAdapter, number>();

  /** @param narrow Copies are in bfloat16, as training's products take adapters at that precision. */
  constructor(narrow: boolean) {
    this.#narrow = narrow;
  }

  /** For rows `rows[i]`; `undefined` is the base model. */
  of(rows: (LoraAdapter | undefined)[]): RowAdapters {
    const distinct = [...new Set(rows)].filter((adapter) => adapter !== undefined);
    const adapters = Int32Array.from(distinct, (adapter) => this.#numberOf(adapter));
    for (const adapter of [...this.#numbers.keys()].slice(0, -Math.max(distinct.length, KEPT_ADAPTERS)))
      this.forget(adapter);
    const indices = new Map(distinct.map((adapter, i) => [adapter, i]));
    return { adapters, adapterOfRow: Int32Array.from(rows, (row) => (row ? indices.get(row)! : -1)) };
  }

  forget(adapter: LoraAdapter): void {
    const number = this.#numbers.get(adapter);
    if (number === undefined) return;
    dropAdapter(number);
    this.#numbers.delete(adapter);
  }

  dispose(): void {
    for (const adapter of [...this.#numbers.keys()]) this.forget(adapter);
  }

  #numberOf(adapter: LoraAdapter): number {
    const number = this.#numbers.get(adapter) ?? this.#keep(adapter);
    this.#numbers.delete(adapter);
    this.#numbers.set(adapter, number);
    return number;
  }

  #keep({ layers, head, scale }: LoraAdapter): number {
    const byKey = (layer: AdaptedModule[]) =>
      Object.fromEntries(layer.map((adapted) => [adapted.module.key, adapted]));
    return keepAdapter({ layers: layers.map(byKey), head, scale, narrow: this.#narrow });
  }
}

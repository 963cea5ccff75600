/**
 * A decode step through all layers by one native call, where the model's layers are Llama's and TensorFlow computes on the CPU. At few rows
 * a step's products take less time than calling TensorFlow for what lies between them.
 */
import {
  adapterIds,
  canDecodeLayers,
  decodeLayers,
  layerWeightIds,
  type Tensor,
  tf,
} from '@anneal/tensorflow';
import type { LoraAdapter } from '../lora/adapter.ts';
import type { BaseModel } from '../models/base-model.ts';
import { type KvCache, RECENT } from './kv-cache.ts';

/** The adapters of a batch as the call takes them, see `DecodeLayersStep`. */
export interface RowAdapters {
  adapters: Int32Array;
  scales: Float32Array;
  adapterOfRow: Int32Array;
}

/** Whether decode steps of this model are such calls. */
export function canFuseSteps({ architecture, attention, config, matmulPrecision }: BaseModel): boolean {
  const isUniform = attention.every(
    ({ rope, window }) => rope === attention[0]!.rope && window === attention[0]!.window,
  );
  return (
    (architecture.hasLlamaLayers ?? false) &&
    matmulPrecision === 'fp32' &&
    config.rope.dim === config.headDim &&
    isUniform &&
    canDecodeLayers()
  );
}

export class FusedStep {
  readonly #base: BaseModel;
  #weights: { of: Record<string, Tensor>[]; ids: Int32Array } | undefined;

  /** @param base One for which {@link canFuseSteps} */
  constructor(base: BaseModel) {
    this.#base = base;
  }

  /**
   * One token for every slot.
   * @param positions Where each slot's token is in its text
   * @returns [slots, 1, hidden], before the final norm; the cache has advanced.
   */
  run(tokens: Int32Array, positions: number[], cache: KvCache, adapters: RowAdapters): Tensor {
    const { config, embed, layers, attention } = this.#base;
    const { hiddenSize, numHeads, numKvHeads, headDim, normEps, attentionScale, embedScale } = config;
    const { rope, window } = attention[0]!;
    const masks = cache.masks(window);
    const intermediate = layers[0]!.gate!.shape[0] as number;
    const { capacity, step } = cache;
    const x = decodeLayers({
      sizes: Int32Array.of(hiddenSize, numHeads, numKvHeads, headDim, intermediate, capacity, RECENT, step),
      normEps,
      attentionScale,
      embedScale,
      tokens,
      embed,
      ...rope.valuesAt(positions),
      pastMask: masks.past,
      recentMask: masks.recent,
      weights: this.#weightIds(layers),
      cache: layers.flatMap((_, layer) => {
        const { past, recent } = cache.layer(layer);
        return [past!.k, past!.v, recent!.k, recent!.v];
      }),
      ...adapters,
    });
    cache.advanceInPlace();
    return x;
  }

  /** Weights that were unloaded come back as other tensors. */
  #weightIds(layers: Record<string, Tensor>[]): Int32Array {
    if (this.#weights?.of !== layers) this.#weights = { of: layers, ids: layerWeightIds(layers) };
    return this.#weights.ids;
  }
}

/** What the call needs of each adapter besides its own tensors, kept while a batch has rows of it. */
export class RowAdapterTensors {
  readonly #kept = new Map<LoraAdapter, { ids: Int32Array; transposed: Tensor[] }>();

  /** For rows `rows[i]`; `undefined` is the base model. */
  of(rows: (LoraAdapter | undefined)[]): RowAdapters {
    const distinct = [...new Set(rows)].filter((adapter) => adapter !== undefined);
    for (const adapter of this.#kept.keys()) if (!distinct.includes(adapter)) this.#drop(adapter);
    const parts = distinct.map((adapter) => this.#idsOf(adapter));
    return {
      adapters: Int32Array.from(parts.flatMap((ids) => [...ids])),
      scales: Float32Array.from(distinct, ({ scale }) => scale),
      adapterOfRow: Int32Array.from(rows, (row) => (row ? distinct.indexOf(row) : -1)),
    };
  }

  dispose(): void {
    for (const adapter of this.#kept.keys()) this.#drop(adapter);
  }

  #idsOf(adapter: LoraAdapter): Int32Array {
    let kept = this.#kept.get(adapter);
    if (!kept) {
      const transposed: Tensor[] = [];
      const layers = adapter.layers.map((modules) =>
        Object.fromEntries(
          modules.map(({ module, a, b }): [string, [Tensor, Tensor]] => {
            const across = tf.transpose(b) as Tensor;
            transposed.push(across);
            return [module.key, [a, across]];
          }),
        ),
      );
      kept = { ids: adapterIds(layers), transposed };
      this.#kept.set(adapter, kept);
    }
    return kept.ids;
  }

  #drop(adapter: LoraAdapter): void {
    tf.dispose(this.#kept.get(adapter)?.transposed ?? []);
    this.#kept.delete(adapter);
  }
}

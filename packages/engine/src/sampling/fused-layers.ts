/**
 * Tokens through all layers by one native call, where the model's layers are Llama's and TensorFlow computes on the CPU: steps of a decode
 * batch, prompts of several adapters, pieces of a long one. Each row, which is one token, has an adapter of its own.
 */
import { filledTensor, fusedLayers, layerWeightIds, type RowStorage, type Tensor } from '@anneal/tensorflow';
import type { LoraAdapter } from '../lora/adapter.ts';
import type { BaseModel } from '../models/base-model.ts';
import { hasNativeLayers } from '../models/native-layers.ts';
import { bucketWidth } from '../training/batch-plan.ts';
import type { KeysAndValues, PrefilledRows } from './cached-rows.ts';
import type { KeptAdapters, RowAdapters } from './kept-adapters.ts';
import type { KvCache } from './kv-cache.ts';
import type { PromptRows } from './prompt-rows.ts';

/** Where a row looks and is kept, see `FusedLayersCall`. */
export type RowPlace = [pastFrom: number, pastTo: number, recentFrom: number, recentTo: number, own: number];

interface Rows {
  tokens: Int32Array;
  /** Where each token is in its text. */
  positions: number[];
  places: RowPlace[];
  adapters: RowAdapters;
  /** The result is [rows, 1, hidden] instead of [rows, hidden]. */
  asSteps?: boolean;
}

/** Per layer; positions in all, of each head. */
interface Positions {
  past: (KeysAndValues | undefined)[];
  pastCount: number;
  recent: KeysAndValues[];
  recentCount: number;
}

/** Whether tokens can go through all layers of this model at once. */
export function layersFuse(base: BaseModel): boolean {
  const { attention } = base;
  const isUniform = attention.every(
    ({ rope, window }) => rope === attention[0]!.rope && window === attention[0]!.window,
  );
  return isUniform && hasNativeLayers(base);
}

/** How such a model's keys and values are kept: as its products take them. */
export function rowStorage({ matmulPrecision }: BaseModel): RowStorage {
  return matmulPrecision === 'bf16' ? 'bfloat16' : 'float32';
}

export class FusedLayers {
  readonly #base: BaseModel;
  readonly #adapters: KeptAdapters;
  /** Of all caches' keys and values. */
  readonly #storage: RowStorage;
  #weights: { of: Record<string, Tensor>[]; ids: Int32Array } | undefined;

  /** @param base One for which {@link layersFuse} */
  constructor(base: BaseModel, adapters: KeptAdapters) {
    this.#base = base;
    this.#adapters = adapters;
    this.#storage = rowStorage(base);
  }

  /**
   * One token for every slot.
   * @param positions Where each slot's token is in its text
   * @param adapters Of each slot
   * @returns [slots, 1, hidden], before the final norm; the cache has advanced.
   */
  step(
    tokens: Int32Array,
    positions: number[],
    cache: KvCache,
    adapters: (LoraAdapter | undefined)[],
  ): Tensor {
    const { layers, attention } = this.#base;
    const slots = layers.map((_, layer) => cache.layer(layer));
    const x = this.#run(
      {
        tokens,
        positions,
        places: cache.places(attention[0]!.window),
        adapters: this.#adapters.of(adapters),
        asSteps: true,
      },
      {
        past: slots.map(({ past }) => past),
        pastCount: cache.slots * cache.capacity,
        recent: slots.map(({ recent }) => recent!),
        recentCount: cache.slots * cache.window,
      },
    );
    cache.advanceInPlace();
    return x;
  }

  /**
   * Prompts, or the next piece of one, through the layers.
   * @param prompts Tokens of each, without padding
   * @param adapters Of each prompt
   * @param before What the only prompt begins with: rows of which the first `length` count
   * @returns Hidden states before the final norm [tokens of all prompts, hidden], and what the cache takes.
   */
  prefill(
    prompts: Int32Array[],
    adapters: (LoraAdapter | undefined)[],
    before?: { rows: PromptRows; length: number },
  ): { x: Tensor; cached: PrefilledRows } {
    const { config, layers, attention } = this.#base;
    const { window = Number.POSITIVE_INFINITY } = attention[0]!;
    const kept = before?.length ?? 0;
    const starts = prompts.map((_, i) => prompts.slice(0, i).reduce((sum, { length }) => sum + length, 0));
    const places = prompts.flatMap(({ length }, i) =>
      Array.from({ length }, (_, token): RowPlace => {
        const first = Math.max(0, kept + token + 1 - window);
        const [start, own] = [starts[i]!, starts[i]! + token];
        return [Math.min(first, kept), kept, start + Math.max(0, first - kept), own + 1, own];
      }),
    );
    const count = bucketWidth(places.length);
    const fresh = (): Tensor =>
      filledTensor(this.#storage, [config.numKvHeads, count, config.headDim], (values) => values.fill(0));
    const recent = layers.map((): KeysAndValues => ({ k: fresh(), v: fresh() }));
    const x = this.#run(
      {
        tokens: Int32Array.from(prompts.flatMap((tokens) => [...tokens])),
        positions: prompts.flatMap(({ length }) => Array.from({ length }, (_, token) => kept + token)),
        places,
        adapters: this.#adapters.of(
          adapters.flatMap((adapter, i) => new Array<typeof adapter>(prompts[i]!.length).fill(adapter)),
        ),
      },
      {
        past: layers.map((_, layer) => before?.rows.layers[layer]?.positions),
        pastCount: before?.rows.capacity ?? 0,
        recent,
        recentCount: count,
      },
    );
    return { x, cached: { layers: recent.map((positions) => ({ positions })), starts } };
  }

  #run({ tokens, positions, places, adapters, asSteps = false }: Rows, kept: Positions): Tensor {
    const { config, embed, layers, attention, matmulPrecision } = this.#base;
    const { hiddenSize, numHeads, numKvHeads, headDim, normEps, attentionScale, embedScale } = config;
    const intermediate = layers[0]!.gate!.shape[0] as number;
    return fusedLayers({
      sizes: Int32Array.of(
        ...[hiddenSize, numHeads, numKvHeads, headDim, intermediate, kept.pastCount, kept.recentCount],
      ),
      normEps,
      attentionScale,
      embedScale,
      bfloat16Products: matmulPrecision === 'bf16',
      bfloat16Cache: this.#storage === 'bfloat16',
      asSteps,
      tokens,
      embed,
      ...attention[0]!.rope.valuesAt(positions),
      places: Int32Array.from(places.flat()),
      weights: this.#weightIds(layers),
      cache: kept.recent.flatMap(({ k, v }, layer) => [kept.past[layer]?.k, kept.past[layer]?.v, k, v]),
      ...adapters,
    });
  }

  /** Weights that were unloaded come back as other tensors. */
  #weightIds(layers: Record<string, Tensor>[]): Int32Array {
    if (this.#weights?.of !== layers) this.#weights = { of: layers, ids: layerWeightIds(layers) };
    return this.#weights.ids;
  }
}

/** Runs a base model for sampling: prefill of prompts, whole or in pieces, one decode step, and what is read off the logits. */
import { compile, type Tensor, tf } from '@anneal/tensorflow';
import type { EngineImage } from '../engine.ts';
import { causalMaskValues } from '../layers/attention.ts';
import { embed } from '../layers/embedding.ts';
import type { LoraAdapter } from '../lora/adapter.ts';
import type { StackedAdapters } from '../lora/adapter-stack.ts';
import type { BaseModel } from '../models/base-model.ts';
import { bucketWidth } from '../training/batch-plan.ts';
import { type PlacedImages, placeImages, withDeepstack, withFeatures } from '../vision/placed-images.ts';
import type { BatchedAdapters } from './batch-adapters.ts';
import { extensionMask } from './cached-attention.ts';
import type { CachedLayer, PrefilledRows } from './cached-rows.ts';
import { FusedHead } from './fused-head.ts';
import { FusedLayers, layersFuse, rowStorage } from './fused-layers.ts';
import { type HeadOutput, type HeadRequest, type HeadTree, headOutputs } from './head-outputs.ts';
import { KeptAdapters } from './kept-adapters.ts';
import type { CacheLayout, KvCache } from './kv-cache.ts';
import {
  createLayerFunctions,
  type DecodeAttention,
  type LayerFunctions,
  type LoraTree,
  type PrefillTree,
} from './layer-functions.ts';
import type { PromptRows } from './prompt-rows.ts';

type Rope = PrefillTree['rope'];

export class Decoder {
  readonly #base: BaseModel;
  /** By layer: does it have a state, or does it attend? */
  readonly #hasState: boolean[];
  readonly #embed: (inputs: { ids: Tensor; table: Tensor }) => { x: Tensor };
  readonly #layer: LayerFunctions;
  readonly #head: (inputs: HeadTree) => { [key: string]: Tensor };
  readonly #keptAdapters: KeptAdapters;
  readonly #fusedLayers: FusedLayers | undefined;
  readonly #fusedHead: FusedHead | undefined;

  /** @param options.fuse Whether tokens may go through all layers at once. */
  constructor(base: BaseModel, options: { xla: boolean; fuse?: boolean }) {
    this.#base = base;
    this.#keptAdapters = new KeptAdapters(base.matmulPrecision === 'bf16');
    if ((options.fuse ?? true) && layersFuse(base)) {
      this.#fusedLayers = new FusedLayers(base, this.#keptAdapters);
      this.#fusedHead = new FusedHead(base, this.#keptAdapters);
    }
    this.#hasState = base.cacheShapes().map((shape) => 'state' in shape);
    const precision = { matmulPrecision: base.matmulPrecision };
    this.#embed = compile(
      'sample_embed',
      ({ ids, table }) => ({ x: embed(ids, table, base.config.embedScale) }),
      precision,
    );
    this.#layer = createLayerFunctions(base, options);
    this.#head = compile('sample_head', (inputs: HeadTree) => headOutputs(inputs, base), precision);
  }

  /** Whether tokens without images go through all layers at once: then prompts of several adapters can be prefilled together. */
  get fused(): boolean {
    return this.#fusedLayers !== undefined;
  }

  /** How keys and values are to be kept. */
  get layout(): CacheLayout {
    return { inPlace: this.fused, storage: this.fused ? rowStorage(this.#base) : 'float32' };
  }

  get vocabSize(): number {
    return this.#base.config.vocabSize;
  }

  /** Images of one prompt, as positions from `start` on see them; for {@link prefill} or {@link extend}. The caller's. */
  place(images: readonly EngineImage[], start: number, width: number): PlacedImages | undefined {
    return placeImages(this.#base, [{ images, start }], { height: 1, width });
  }

  /**
   * Runs prompts through the layers.
   * @param adapters Of each prompt; the same of all, unless {@link fused}
   * @param images What images put into them; stays the caller's
   * @returns Hidden states before the final norm [positions, hidden], and what the cache takes; both begin where `cached.starts` says.
   */
  prefill(
    prompts: Int32Array[],
    adapters: BatchedAdapters,
    images?: PlacedImages,
  ): { x: Tensor; cached: PrefilledRows } {
    if (this.#fusedLayers && !images) return this.#fusedLayers.prefill(prompts, adapters.rows);
    const width = bucketWidth(Math.max(...prompts.map(({ length }) => length)));
    const masks = perKey(this.#base.attention, ({ window = width }) => ({
      key: Math.min(window, width),
      make: () => ({ mask: tf.tensor4d(causalMaskValues(width, window), [1, 1, width, width]) as Tensor }),
    }));
    const lengths = prompts.map(({ length }) => length);
    const given = { ids: padded(prompts, width), lengths: tf.tensor1d(lengths, 'int32') as Tensor };
    const { x, made } = this.#through({ ids: given.ids, adapters, images }, (layer, inputs) => {
      const { rope } = this.#base.attention[layer]!;
      return this.#layer.prefill({
        ...inputs,
        rope: (images?.ropes.get(rope) ?? rope.upTo(width)) as Rope,
        ...(this.#hasState[layer] ? { lengths: given.lengths } : masks[layer]!),
      });
    });
    tf.dispose({ masks, given });
    return { x: flat(x), cached: { layers: made, starts: prompts.map((_, row) => row * width) } };
  }

  /**
   * Runs the next piece of one prompt through the layers.
   * @param before What the prompt begins with: rows of which the first `length` count; all of them where layers have states
   * @returns As {@link prefill}, of the new positions.
   */
  extend(
    piece: Int32Array,
    before: { rows: PromptRows; length: number },
    adapters: BatchedAdapters,
    images?: PlacedImages,
  ): { x: Tensor; cached: PrefilledRows } {
    if (this.#fusedLayers && !images) return this.#fusedLayers.prefill([piece], adapters.rows, before);
    const { rows, length } = before;
    const width = bucketWidth(piece.length);
    const masks = perKey(this.#base.attention, ({ window }) => ({
      key: window,
      make: () => ({
        mask: tf.tensor4d(extensionMask(rows.capacity, length, width, window), [
          1,
          1,
          width,
          rows.capacity + width,
        ]) as Tensor,
      }),
    }));
    const ropes = perKey(this.#base.attention, ({ rope }) => ({
      key: rope,
      make: () => rope.from(length, width) as Rope,
    }));
    const given = { ids: padded([piece], width), lengths: tf.tensor1d([piece.length], 'int32') as Tensor };
    const { x, made } = this.#through({ ids: given.ids, adapters, images }, (layer, inputs) => {
      const { positions: past, state } = rows.layers[layer]!;
      return this.#layer.extend({
        ...inputs,
        rope: (images?.ropes.get(this.#base.attention[layer]!.rope) as Rope | undefined) ?? ropes[layer]!,
        ...(this.#hasState[layer] ? { lengths: given.lengths, state } : { ...masks[layer]!, past }),
      });
    });
    tf.dispose({ masks, ropes, given });
    return { x: flat(x), cached: { layers: made, starts: [0] } };
  }

  /**
   * One token for every slot.
   * @param tokens One id per slot
   * @param shifts How far each slot's position is from its number of tokens, see `SequencePositions`
   * @returns Hidden states before the final norm, [slots, 1, hidden]; the cache has advanced.
   */
  step(tokens: Int32Array, shifts: number[], cache: KvCache, adapters: BatchedAdapters): Tensor {
    const { slots } = cache;
    const positions = Array.from({ length: slots }, (_, slot) => cache.length(slot) + shifts[slot]!);
    if (this.#fusedLayers) return this.#fusedLayers.step(tokens, positions, cache, adapters.rows);
    const ids = tf.tensor2d(tokens, [slots, 1], 'int32') as Tensor;
    const masks = perKey(this.#base.attention, ({ window }) => ({
      key: window,
      make: () => maskTensors(cache, window),
    }));
    const ropes = perKey(this.#base.attention, ({ rope }) => ({
      key: rope,
      make: () => rope.at(positions) as Rope,
    }));
    const place = tf.tensor4d(
      Float32Array.from({ length: cache.window }, (_, i) => (i === cache.step ? 1 : 0)),
      [1, 1, cache.window, 1],
    ) as Tensor;
    const { x, made } = this.#through({ ids, adapters }, (layer, inputs) => {
      const { past, recent, state } = cache.layer(layer);
      const attention = past && recent && { past, recent, masks: masks[layer]!, place };
      return this.#layer.decode({
        ...inputs,
        rope: ropes[layer]!,
        ...(attention ? { attention } : { state }),
      });
    });
    tf.dispose({ ids, masks, ropes, place });
    cache.advance(made);
    return x;
  }

  /** Frees what is kept of an adapter that is about to go. */
  forget(adapter: LoraAdapter): void {
    this.#keptAdapters.forget(adapter);
  }

  dispose(): void {
    this.#keptAdapters.dispose();
  }

  /** Embeds ids and runs each layer by `run`. */
  #through(
    { ids, adapters, images }: { ids: Tensor; adapters: StackedAdapters; images?: PlacedImages | undefined },
    run: (
      layer: number,
      inputs: { x: Tensor; weights: Record<string, Tensor>; lora: LoraTree },
    ) => { y: Tensor; cached: CachedLayer },
  ): { x: Tensor; made: CachedLayer[] } {
    let x = withFeatures(this.#embed({ ids, table: this.#base.embed }).x, images);
    const made = this.#base.layers.map((weights, layer) => {
      const { y, cached } = run(layer, { x, weights, lora: adapters.layers[layer] as LoraTree });
      x.dispose();
      x = withDeepstack(y, layer, images);
      return cached;
    });
    return { x, made };
  }

  /**
   * Logits of the rows' next token and what sampling needs of them. Frees nothing but its own.
   * @param x [rows, 1, hidden], before the final norm
   */
  head(x: Tensor, adapters: BatchedAdapters, request: HeadRequest): HeadOutput {
    if (this.#fusedHead) return this.#fusedHead.run(x, adapters.rows, request);
    const { temperature, draws, candidates } = request;
    const rows = x.shape[0] as number;
    const inputs = {
      temperature: tf.tensor2d(temperature, [rows, 1]) as Tensor,
      seeds: tf.tensor2d(
        draws.flatMap((draw) => draw?.seeds ?? [0, 0]),
        [rows, 2],
        'int32',
      ) as Tensor,
    };
    const out = this.#head({
      x,
      norm: this.#base.finalNorm,
      weight: this.#base.head,
      lora: adapters.head as HeadTree['lora'],
      ...inputs,
      draws: draws.some((draw) => draw !== undefined),
      candidates,
    });
    const floats = (name: string) =>
      out[name] ? (out[name].dataSync() as Float32Array) : new Float32Array(0);
    const ints = (name: string) => (out[name] ? (out[name].dataSync() as Int32Array) : new Int32Array(0));
    const result: HeadOutput = {
      logits: out.logits!,
      argmax: ints('argmax'),
      drawn: ints('drawn'),
      argmaxLogit: floats('argmaxLogit'),
      drawnLogit: floats('drawnLogit'),
      logTotal: floats('logTotal'),
      mass: floats('mass'),
      topIds: ints('topIds'),
      topLogits: floats('topLogits'),
    };
    const { logits: _, ...read } = out;
    tf.dispose([inputs.temperature, inputs.seeds, ...Object.values(read)]);
    return result;
  }
}

/** int32 [rows, width], padded at the end. */
function padded(prompts: Int32Array[], width: number): Tensor {
  const ids = new Int32Array(prompts.length * width);
  prompts.forEach((prompt, row) => {
    ids.set(prompt, row * width);
  });
  return tf.tensor2d(ids, [prompts.length, width], 'int32') as Tensor;
}

/** [rows, width, hidden], which is freed → [rows · width, hidden] */
function flat(x: Tensor): Tensor {
  const rows = tf.reshape(x, [-1, x.shape[2] as number]) as Tensor;
  x.dispose();
  return rows;
}

/** One value per layer; layers whose keys are equal share theirs. */
function perKey<L, V>(layers: L[], entryOf: (layer: L) => { key: unknown; make: () => V }): V[] {
  const made = new Map<unknown, V>();
  return layers.map((layer) => {
    const { key, make } = entryOf(layer);
    const value = made.has(key) ? (made.get(key) as V) : make();
    made.set(key, value);
    return value;
  });
}

function maskTensors(cache: KvCache, window: number | undefined): DecodeAttention['masks'] {
  const { slots, capacity, window: steps } = cache;
  const { past, recent } = cache.masks(window);
  return {
    past: tf.tensor4d(past, [1, slots, 1, capacity]),
    recent: tf.tensor4d(recent, [1, slots, 1, steps]),
  };
}

/**
 * What the layers keep of the sequences in a decode batch: keys and values of their positions, or a state.
 *
 * Each slot's past lies in large tensors that decode steps only read; the last few steps' keys and values lie in small
 * "recent" ones that every step replaces, or writes to. When those are full, or the batch changes, one gather builds the next past from
 * past, recent and freshly prefilled rows: it compacts, grows, shares prefixes and admits, all at once. States are replaced
 * by every step, and gathered when the batch changes.
 *
 * Layout: past [heads, slots, length, dim], recent [heads, slots, window, dim], keys and values may differ in dim; states
 * [slots, ...].
 */
import { compile, filledTensor, type RowStorage, type Tensor, tf } from '@anneal/tensorflow';
import { MASKED } from '../layers/attention.ts';
import type { StateTensors } from '../layers/recurrent-state.ts';
import type { CacheShape, PositionsShape } from '../models/architecture.ts';
import { bucketWidth } from '../training/batch-plan.ts';
import { type CachedLayer, type KeysAndValues, type PrefilledRows, ROW_BYTES } from './cached-rows.ts';
import type { RowPlace } from './fused-layers.ts';
import { gatherPositions } from './gather-positions.ts';
import { PromptRows } from './prompt-rows.ts';

const RECENT = 16;
const IN_PLACE = { steps: 64, valueBytes: 4096 };

/** How keys and values are kept. */
export interface CacheLayout {
  /** Whether steps write them where they stay. */
  inPlace: boolean;
  storage: RowStorage;
}

/** Steps that the recent tensors hold. Where steps write in place more of them cost memory alone, of which many slots get less each. */
export function windowOf(slots: number, { inPlace, storage }: CacheLayout): number {
  if (!inPlace) return RECENT;
  const most = Math.floor(IN_PLACE.valueBytes / ROW_BYTES[storage] / slots);
  return Math.max(RECENT, Math.min(IN_PLACE.steps, most));
}

/** Where a new slot's past comes from: an old slot, or a prefilled row; and how many positions. */
export type SlotSource =
  | { from: 'slot'; slot: number; length: number }
  | { from: 'prefill'; row: number; length: number };

/** What a decode step reads of a layer, and replaces: `recent` or `state`. */
export type SlotLayer = {
  past?: KeysAndValues;
  recent?: KeysAndValues;
  state?: StateTensors;
};

const gatherStates = compile(
  'gather_states',
  ({ states, slotIndex }: { states: Tensor[][]; slotIndex: Tensor }) =>
    states.map((parts) => {
      const slots = parts.length === 1 ? parts[0]! : tf.concat(parts, 0);
      return tf.gather(slots, slotIndex as never);
    }),
);

/** Bytes that slots of so many positions take. */
export function cacheBytes(
  shapes: CacheShape[],
  slots: number,
  positions: number,
  storage: RowStorage = 'float32',
): number {
  const bytes = shapes.map((shape) =>
    'state' in shape
      ? 4 * Object.values(shape.state).reduce((sum, part) => sum + part.reduce((a, b) => a * b, 1), 0)
      : ROW_BYTES[storage] * shape.heads * (shape.keyDim + shape.valueDim) * positions,
  );
  return slots * bytes.reduce((sum, count) => sum + count, 0);
}

export class KvCache {
  readonly #shapes: CacheShape[];
  readonly #layout: CacheLayout;
  #layers: SlotLayer[] = [];
  slots = 0;
  /** Steps that the recent tensors hold. */
  window = 0;
  /** Positions that a slot's past can hold. */
  capacity = 0;
  /** Filled positions of each slot's past. */
  #lengths: number[] = [];
  /** Step of the recent window at which each slot joined. */
  #joined: number[] = [];
  /** Steps taken in the recent window. */
  #step = 0;

  /**
   * @param shapes Per layer
   * @param layout As the decoder that takes the steps keeps them; replaced by every step, in float32, unless given
   */
  constructor(shapes: CacheShape[], layout: CacheLayout = { inPlace: false, storage: 'float32' }) {
    this.#shapes = shapes;
    this.#layout = layout;
  }

  /** Bytes that the tensors of all slots take. */
  get bytes(): number {
    return cacheBytes(this.#shapes, this.slots, this.capacity + this.window, this.#layout.storage);
  }

  get isFull(): boolean {
    return this.#step >= this.window;
  }

  /** Index of the recent window that the next step writes. */
  get step(): number {
    return this.#step;
  }

  /** Stays the cache's. */
  layer(layer: number): SlotLayer {
    return this.#layers[layer]!;
  }

  /** Positions of a slot so far, which is also the position of its next token. */
  length(slot: number): number {
    return this.#lengths[slot]! + (this.#step - this.#joined[slot]!);
  }

  /**
   * 0 where a slot may look, {@link MASKED} elsewhere: [1, slots, 1, capacity] and, with this step's own, [1, slots, 1, {@link window}].
   * @param window Positions that the next token sees, its own included
   */
  masks(window = Number.POSITIVE_INFINITY): { past: Float32Array; recent: Float32Array } {
    const past = new Float32Array(this.slots * this.capacity).fill(MASKED);
    const recent = new Float32Array(this.slots * this.window).fill(MASKED);
    for (let slot = 0; slot < this.slots; slot++) {
      const length = this.#lengths[slot]!;
      const joined = this.#joined[slot]!;
      const first = Math.max(0, this.length(slot) + 1 - window);
      past.fill(0, slot * this.capacity + Math.min(first, length), slot * this.capacity + length);
      const firstRecent = joined + Math.max(0, first - length);
      recent.fill(0, slot * this.window + firstRecent, slot * this.window + this.#step + 1);
    }
    return { past, recent };
  }

  /**
   * Where each slot looks, as {@link masks} has it, and where it writes: among the positions of all slots.
   * @param window As in {@link masks}
   */
  places(window = Number.POSITIVE_INFINITY): RowPlace[] {
    return Array.from({ length: this.slots }, (_, slot): RowPlace => {
      const [length, past, recent] = [this.#lengths[slot]!, slot * this.capacity, slot * this.window];
      const first = Math.max(0, this.length(slot) + 1 - window);
      const firstRecent = this.#joined[slot]! + Math.max(0, first - length);
      const own = recent + this.#step;
      return [past + Math.min(first, length), past + length, recent + firstRecent, own + 1, own];
    });
  }

  /** A step has written its keys and values into the recent tensors. */
  advanceInPlace(): void {
    this.#step++;
  }

  /** Takes the recent keys and values, or states, that a step produced. */
  advance(made: CachedLayer[]): void {
    this.#layers = this.#layers.map(({ past, recent, state }, layer) => {
      tf.dispose([recent, state]);
      const { positions, state: next } = made[layer]!;
      return past ? { past, recent: positions } : { state: next };
    });
    this.#step++;
  }

  /** Rebuilds the cache with the given slots. `sources` may be shorter than `slots`: the rest is padding. */
  rebuild(
    sources: SlotSource[],
    slots: number,
    capacity: number,
    prefilled: PrefilledRows | undefined,
  ): void {
    const gathered = this.#gather(sources, [slots, capacity], prefilled);
    this.dispose();
    this.window = windowOf(slots, this.#layout);
    this.#layers = gathered.map(({ positions, state }, layer) =>
      positions
        ? { past: positions, recent: this.#emptyRecent(this.#shapes[layer] as PositionsShape, slots) }
        : { state },
    );
    this.slots = slots;
    this.capacity = capacity;
    this.#lengths = Array.from({ length: slots }, (_, i) => sources[i]?.length ?? 0);
    this.#joined = new Array(slots).fill(0);
    this.#step = 0;
  }

  /** A copy of what a slot holds. */
  extract(slot: number): PromptRows {
    const length = this.length(slot);
    const capacity = bucketWidth(length);
    const layers = this.#gather([{ from: 'slot', slot, length }], [capacity], undefined);
    return new PromptRows(layers, { length, capacity, storage: this.#layout.storage });
  }

  /**
   * Per layer positions [heads, ...middle, dim] or state [slots, ...].
   * @param middle Slots, which may be left out if there is one, and positions of each
   */
  #gather(sources: SlotSource[], middle: number[], prefilled: PrefilledRows | undefined): CachedLayer[] {
    const [slots, capacity] = [middle.at(-2) ?? 1, middle.at(-1)!];
    const keep = sources.some(({ from }) => from === 'slot');
    const old = (layer: number): SlotLayer => (keep ? this.#layers[layer]! : {});
    const positions = this.#shapes.flatMap((shape, layer) => {
      if ('state' in shape) return [];
      const { past, recent } = old(layer);
      const parts = [past, recent, prefilled?.layers[layer]?.positions].filter((part) => part !== undefined);
      return [parts.map(({ k }) => k), parts.map(({ v }) => v)];
    });
    const states = this.#shapes.flatMap((shape, layer) => {
      if (!('state' in shape)) return [];
      const parts = [old(layer).state, prefilled?.layers[layer]?.state].filter((part) => part !== undefined);
      return Object.keys(shape.state).map((name) => parts.map((part) => part[name]!));
    });
    const index = this.#index(sources, slots, capacity, prefilled);
    const made = {
      positions: gatherPositions(positions, index, middle, this.#layout.storage),
      states: states.length > 0 ? this.#gatherStates(states, this.#slotIndex(sources, slots)) : [],
    };
    return this.#shapes.map((shape): CachedLayer => {
      if (!('state' in shape))
        return { positions: { k: made.positions.shift()!, v: made.positions.shift()! } };
      const parts = Object.keys(shape.state).map((name) => [name, made.states.shift()!]);
      return { state: Object.fromEntries(parts) };
    });
  }

  /** @param states Parts of each, joined along their slots */
  #gatherStates(states: Tensor[][], slots: Int32Array): Tensor[] {
    const slotIndex = tf.tensor1d(slots, 'int32') as Tensor;
    const made = gatherStates({ states, slotIndex });
    slotIndex.dispose();
    return made;
  }

  /** For every new position, its place in the concatenation of past, recent and prefilled rows. */
  #index(
    sources: SlotSource[],
    slots: number,
    capacity: number,
    prefilled: PrefilledRows | undefined,
  ): Int32Array {
    const index = new Int32Array(slots * capacity);
    const keep = sources.some(({ from }) => from === 'slot');
    const recentStart = keep ? this.slots * this.capacity : 0;
    const prefillStart = keep ? recentStart + this.slots * this.window : 0;
    sources.forEach((source, target) => {
      const at = target * capacity;
      if (source.from === 'prefill') {
        const start = prefillStart + prefilled!.starts[source.row]!;
        for (let i = 0; i < source.length; i++) index[at + i] = start + i;
        return;
      }
      const inPast = this.#lengths[source.slot]!;
      for (let i = 0; i < source.length; i++) {
        const recentAt = recentStart + source.slot * this.window + this.#joined[source.slot]! + (i - inPast);
        index[at + i] = i < inPast ? source.slot * this.capacity + i : recentAt;
      }
    });
    return index;
  }

  /** For every new slot, its place in the concatenation of old slots and prefilled rows. */
  #slotIndex(sources: SlotSource[], slots: number): Int32Array {
    const prefillStart = sources.some(({ from }) => from === 'slot') ? this.slots : 0;
    return Int32Array.from({ length: slots }, (_, i) => {
      const source = sources[i];
      if (!source) return 0;
      return source.from === 'slot' ? source.slot : prefillStart + source.row;
    });
  }

  #emptyRecent({ heads, keyDim, valueDim }: PositionsShape, slots: number): KeysAndValues {
    const empty = (dim: number) =>
      filledTensor(this.#layout.storage, [heads, slots, this.window, dim], (values) => values.fill(0));
    return { k: empty(keyDim), v: empty(valueDim) };
  }

  dispose(): void {
    tf.dispose(this.#layers);
    this.#layers = [];
    this.slots = 0;
    this.capacity = 0;
  }
}

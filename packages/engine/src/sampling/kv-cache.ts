/**
 * Keys and values of the sequences in a decode batch.
 *
 * Each slot's past lies in large tensors that decode steps only read; the last few steps' keys and values lie in small
 * "recent" ones that every step replaces. When those are full, or the batch changes, one gather builds the next past from
 * past, recent and freshly prefilled rows: it compacts, grows, shares prefixes and admits, all at once.
 *
 * Layout: past [heads, slots, length, dim], recent [heads, slots, RECENT, dim]; keys and values may differ in dim.
 */
import { compile, type Tensor, tf } from '@anneal/tensorflow';
import { MASKED } from '../layers/attention.ts';
import type { CacheShape } from '../models/architecture.ts';
import { bucketWidth } from '../training/batch-plan.ts';
import { PromptRows } from './prompt-rows.ts';

/** Steps that the recent tensors hold. */
export const RECENT = 16;

/** Keys and values of prompts, [kvHeads, rows · width, dim] per layer. */
export interface PrefilledRows {
  k: Tensor[];
  v: Tensor[];
  width: number;
}

/** Where a new slot's past comes from: an old slot, or a prefilled row; and how many positions. */
export type SlotSource =
  | { from: 'slot'; slot: number; length: number }
  | { from: 'prefill'; row: number; length: number };

const rebuildTensors = compile(
  'kv_rebuild',
  ({ pieces, index, slots, length }: { pieces: Tensor[][]; index: Tensor; slots: number; length: number }) =>
    pieces.map((parts) => {
      const flat = parts.map((part) => (part.rank === 4 ? flatten(part) : part));
      const rows = flat.length === 1 ? flat[0]! : tf.concat(flat, 1);
      const [kvHeads, , dim] = rows.shape as [number, number, number];
      return tf.reshape(tf.gather(rows, index as never, 1), [kvHeads, slots, length, dim]);
    }),
);

function flatten(x: Tensor): Tensor {
  const [kvHeads, slots, length, dim] = x.shape as [number, number, number, number];
  return tf.reshape(x, [kvHeads, slots * length, dim]);
}

interface Shape extends CacheShape {
  numLayers: number;
}

export class KvCache {
  readonly #shape: Shape;
  #past: { k: Tensor[]; v: Tensor[] } = { k: [], v: [] };
  #recent: { k: Tensor[]; v: Tensor[] } = { k: [], v: [] };
  slots = 0;
  /** Positions that a slot's past can hold. */
  capacity = 0;
  /** Filled positions of each slot's past. */
  #lengths: number[] = [];
  /** Step of the recent window at which each slot joined. */
  #joined: number[] = [];
  /** Steps taken in the recent window. */
  #step = 0;

  constructor(shape: Shape) {
    this.#shape = shape;
  }

  get isFull(): boolean {
    return this.#step >= RECENT;
  }

  /** Index of the recent window that the next step writes. */
  get step(): number {
    return this.#step;
  }

  get past() {
    return this.#past;
  }

  get recent() {
    return this.#recent;
  }

  /** Positions of a slot so far, which is also the position of its next token. */
  length(slot: number): number {
    return this.#lengths[slot]! + (this.#step - this.#joined[slot]!);
  }

  /**
   * 0 where a slot may look, {@link MASKED} elsewhere: [1, slots, 1, capacity] and, with this step's own, [1, slots, 1, RECENT].
   * @param window Positions that the next token sees, its own included
   */
  masks(window = Number.POSITIVE_INFINITY): { past: Float32Array; recent: Float32Array } {
    const past = new Float32Array(this.slots * this.capacity).fill(MASKED);
    const recent = new Float32Array(this.slots * RECENT).fill(MASKED);
    for (let slot = 0; slot < this.slots; slot++) {
      const length = this.#lengths[slot]!;
      const joined = this.#joined[slot]!;
      const first = Math.max(0, this.length(slot) + 1 - window);
      past.fill(0, slot * this.capacity + Math.min(first, length), slot * this.capacity + length);
      const firstRecent = joined + Math.max(0, first - length);
      recent.fill(0, slot * RECENT + firstRecent, slot * RECENT + this.#step + 1);
    }
    return { past, recent };
  }

  /** Takes the recent tensors that a step produced. */
  advance(recent: { k: Tensor[]; v: Tensor[] }): void {
    tf.dispose([...this.#recent.k, ...this.#recent.v]);
    this.#recent = recent;
    this.#step++;
  }

  /** Rebuilds the cache with the given slots. `sources` may be shorter than `slots`: the rest is padding. */
  rebuild(
    sources: SlotSource[],
    slots: number,
    capacity: number,
    prefilled: PrefilledRows | undefined,
  ): void {
    const { k, v } = this.#gather(sources, slots, capacity, prefilled);
    this.dispose();
    this.#past = { k, v };
    const { heads, keyDim, valueDim, numLayers } = this.#shape;
    const empty = (dim: number) =>
      Array.from({ length: numLayers }, () => tf.zeros([heads, slots, RECENT, dim]) as Tensor);
    this.#recent = { k: empty(keyDim), v: empty(valueDim) };
    this.slots = slots;
    this.capacity = capacity;
    this.#lengths = Array.from({ length: slots }, (_, i) => sources[i]?.length ?? 0);
    this.#joined = new Array(slots).fill(0);
    this.#step = 0;
  }

  /** A copy of what a slot holds. */
  extract(slot: number): PromptRows {
    const length = this.length(slot);
    const { k, v } = this.#gather([{ from: 'slot', slot, length }], 1, bucketWidth(length), undefined);
    const rows = (tensors: Tensor[]) => tensors.map((tensor) => tf.squeeze(tensor, [1]) as Tensor);
    const result = new PromptRows({ k: rows(k), v: rows(v) }, length);
    tf.dispose([...k, ...v]);
    return result;
  }

  #gather(
    sources: SlotSource[],
    slots: number,
    capacity: number,
    prefilled: PrefilledRows | undefined,
  ): { k: Tensor[]; v: Tensor[] } {
    const index = this.#index(sources, slots, capacity, prefilled);
    const keep = sources.some(({ from }) => from === 'slot');
    const pieces = (kind: 'k' | 'v') =>
      Array.from({ length: this.#shape.numLayers }, (_, layer) => [
        ...(keep ? [this.#past[kind][layer]!, this.#recent[kind][layer]!] : []),
        ...(prefilled ? [prefilled[kind][layer]!] : []),
      ]);
    const indices = tf.tensor1d(index, 'int32');
    const tensors = rebuildTensors({
      pieces: [...pieces('k'), ...pieces('v')],
      index: indices,
      slots,
      length: capacity,
    });
    indices.dispose();
    return { k: tensors.slice(0, this.#shape.numLayers), v: tensors.slice(this.#shape.numLayers) };
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
    const prefillStart = keep ? recentStart + this.slots * RECENT : 0;
    sources.forEach((source, target) => {
      const at = target * capacity;
      if (source.from === 'prefill') {
        const start = prefillStart + source.row * prefilled!.width;
        for (let i = 0; i < source.length; i++) index[at + i] = start + i;
        return;
      }
      const inPast = this.#lengths[source.slot]!;
      for (let i = 0; i < source.length; i++) {
        const recentAt = recentStart + source.slot * RECENT + this.#joined[source.slot]! + (i - inPast);
        index[at + i] = i < inPast ? source.slot * this.capacity + i : recentAt;
      }
    });
    return index;
  }

  dispose(): void {
    tf.dispose([...this.#past.k, ...this.#past.v, ...this.#recent.k, ...this.#recent.v]);
    this.#past = { k: [], v: [] };
    this.#recent = { k: [], v: [] };
    this.slots = 0;
    this.capacity = 0;
  }
}

/** What is kept of one prompt so far: what a prefill in pieces adds to, and what later prompts begin with. */
import { type RowStorage, type Tensor, tf } from '@anneal/tensorflow';
import { type CachedLayer, type PrefilledRows, ROW_BYTES } from './cached-rows.ts';
import { gatherPositions } from './gather-positions.ts';

export class PromptRows {
  /** Positions [heads, capacity, dim]; states [1, ...], after the last of the `length` positions. */
  readonly layers: CachedLayer[];
  /** Positions that hold something; those beyond are padding. */
  readonly length: number;
  readonly capacity: number;
  /** Of positions. */
  readonly storage: RowStorage;

  constructor(
    layers: CachedLayer[],
    { length, capacity, storage }: { length: number; capacity: number; storage: RowStorage },
  ) {
    this.layers = layers;
    this.length = length;
    this.capacity = capacity;
    this.storage = storage;
  }

  get bytes(): number {
    const sizeOf = (tensors: { [name: string]: Tensor } = {}) =>
      Object.values(tensors).reduce((sum, { size }) => sum + size, 0);
    return this.layers.reduce(
      (sum, { positions, state }) => sum + ROW_BYTES[this.storage] * sizeOf(positions) + 4 * sizeOf(state),
      0,
    );
  }

  /**
   * The first `length` positions of `before`, if any, and then the first `count` of a row of `added`, padded to `capacity`.
   * Takes nothing over. A state is that of `added`, which began with what `before` left.
   */
  static joined(
    before: { rows: PromptRows; length: number } | undefined,
    added: PrefilledRows,
    {
      row,
      count,
      capacity,
      storage = 'float32',
    }: { row: number; count: number; capacity: number; storage?: RowStorage },
  ): PromptRows {
    const start = (before?.rows.capacity ?? 0) + added.starts[row]!;
    const kept = before?.length ?? 0;
    const index = Int32Array.from({ length: capacity }, (_, i) =>
      i < kept ? i : i < kept + count ? start + i - kept : 0,
    );
    const pieces = added.layers.flatMap(({ positions }, layer) =>
      (['k', 'v'] as const).flatMap((kind) => {
        if (!positions) return [];
        const earlier = before?.rows.layers[layer]?.positions;
        return [[...(earlier ? [earlier[kind]] : []), positions[kind]]];
      }),
    );
    const joined = gatherPositions(pieces, index, [capacity], storage);
    const layers = added.layers.map(({ positions, state }): CachedLayer => {
      if (positions) return { positions: { k: joined.shift()!, v: joined.shift()! } };
      const own = Object.entries(state!).map(([name, rows]) => [name, tf.slice(rows, row, 1)]);
      return { state: Object.fromEntries(own) };
    });
    return new PromptRows(layers, { length: kept + count, capacity, storage });
  }

  dispose(): void {
    tf.dispose(this.layers);
  }
}

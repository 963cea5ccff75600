/** What is kept of one prompt so far: what a prefill in pieces adds to, and what later prompts begin with. */
import { tf } from '@anneal/tensorflow';
import type { CachedLayer, PrefilledRows } from './cached-rows.ts';
import { gatherPositions } from './gather-positions.ts';

export class PromptRows {
  /** Positions [heads, capacity, dim]; states [1, ...], after the last of the `length` positions. */
  readonly layers: CachedLayer[];
  /** Positions that hold something; those beyond are padding. */
  readonly length: number;
  readonly capacity: number;

  constructor(layers: CachedLayer[], length: number, capacity: number) {
    this.layers = layers;
    this.length = length;
    this.capacity = capacity;
  }

  get bytes(): number {
    return this.layers
      .flatMap(({ positions, state }) => Object.values({ ...positions, ...state }))
      .reduce((sum, { size }) => sum + 4 * size, 0);
  }

  /**
   * The first `length` positions of `before`, if any, and then the first `count` of a row of `added`, padded to `capacity`.
   * Takes nothing over. A state is that of `added`, which began with what `before` left.
   */
  static joined(
    before: { rows: PromptRows; length: number } | undefined,
    added: PrefilledRows,
    { row, count, capacity }: { row: number; count: number; capacity: number },
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
    const joined = gatherPositions(pieces, index, [capacity]);
    const layers = added.layers.map(({ positions, state }): CachedLayer => {
      if (positions) return { positions: { k: joined.shift()!, v: joined.shift()! } };
      const own = Object.entries(state!).map(([name, rows]) => [name, tf.slice(rows, row, 1)]);
      return { state: Object.fromEntries(own) };
    });
    return new PromptRows(layers, kept + count, capacity);
  }

  dispose(): void {
    tf.dispose(this.layers);
  }
}

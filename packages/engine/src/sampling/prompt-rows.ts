/** Keys and values of one prompt so far: what a prefill in pieces adds to, and what later prompts begin with. */
import { compile, type Tensor, tf } from '@anneal/tensorflow';

export interface LayerRows {
  /** [heads, positions, dim] per layer */
  k: Tensor[];
  v: Tensor[];
}

const join = compile('join_rows', ({ pieces, index }: { pieces: Tensor[][]; index: Tensor }) =>
  pieces.map((parts) => tf.gather(parts.length === 1 ? parts[0]! : tf.concat(parts, 1), index as never, 1)),
);

export class PromptRows {
  readonly k: Tensor[];
  readonly v: Tensor[];
  /** Positions that hold something; those beyond are padding. */
  readonly length: number;

  constructor({ k, v }: LayerRows, length: number) {
    this.k = k;
    this.v = v;
    this.length = length;
  }

  get capacity(): number {
    return this.k[0]!.shape[1] as number;
  }

  get bytes(): number {
    return [...this.k, ...this.v].reduce((sum, { size }) => sum + 4 * size, 0);
  }

  /**
   * The first `length` positions of `before`, if any, and then `count` positions of `added` from `from` on, padded to
   * `capacity`. Takes nothing over.
   */
  static joined(
    before: { rows: PromptRows; length: number } | undefined,
    added: LayerRows,
    { from, count, capacity }: { from: number; count: number; capacity: number },
  ): PromptRows {
    const offset = before?.rows.capacity ?? 0;
    const kept = before?.length ?? 0;
    const index = Int32Array.from({ length: capacity }, (_, i) =>
      i < kept ? i : i < kept + count ? offset + from + i - kept : 0,
    );
    const pieces = (kind: 'k' | 'v') =>
      added[kind].map((tensor, layer) => [...(before ? [before.rows[kind][layer]!] : []), tensor]);
    const indices = tf.tensor1d(index, 'int32') as Tensor;
    const tensors = join({ pieces: [...pieces('k'), ...pieces('v')], index: indices });
    indices.dispose();
    const layers = added.k.length;
    return new PromptRows({ k: tensors.slice(0, layers), v: tensors.slice(layers) }, kept + count);
  }

  dispose(): void {
    tf.dispose([...this.k, ...this.v]);
  }
}

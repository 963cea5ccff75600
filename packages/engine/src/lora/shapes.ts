import type { LoraSpec } from '../engine.ts';
import type { LoraModule } from '../models/architecture.ts';

/** What the shapes of an adapter's tensors depend on. */
export type LoraShapeSpec = Pick<LoraSpec, 'rank' | 'shareExperts'>;

/**
 * Shapes of a module's A and B in an adapter: [rank, in] and [out, rank]; of experts [experts, rank, in] and
 * [experts, out, rank], with 1 for the side that they share.
 */
export function loraShapes(
  { inFeatures, outFeatures, experts }: LoraModule,
  { rank, shareExperts }: LoraShapeSpec,
): { a: number[]; b: number[] } {
  const leading = (side: 'a' | 'b') => {
    if (!experts) return [];
    return [shareExperts && experts.shared === side ? 1 : experts.count];
  };
  return { a: [...leading('a'), rank, inFeatures], b: [...leading('b'), outFeatures, rank] };
}

/** Values of a tensor of this shape. */
export function sizeOf(shape: readonly number[]): number {
  return shape.reduce((product, dim) => product * dim, 1);
}

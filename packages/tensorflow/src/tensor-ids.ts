/** Tensors as native calls take them: ids that are good while the tensors live. */
import { tensorIds } from './backend.ts';
import type { Tensor } from './tf.ts';

/** The matrices that adapters adapt, in the order of native Module. */
export const MODULES = ['q', 'k', 'v', 'o', 'gate', 'up', 'down'];

/** -1 where there is none. */
export function idsOrNone(tensors: readonly (Tensor | undefined)[]): Int32Array {
  const ids = tensorIds(tensors.filter((tensor) => tensor !== undefined));
  let next = 0;
  return Int32Array.from(tensors, (tensor) => (tensor ? ids[next++]! : -1));
}

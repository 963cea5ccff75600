/** State that a layer carries from position to position, instead of keys and values; the caller decides where it is kept. */
import type { Tensor } from '@anneal/tensorflow';

/** Parts of a state by name, each [batch, ...]. */
export type StateTensors = Record<string, Tensor>;

export interface RecurrentState {
  /** What the positions before left; undefined at the beginning of sequences. */
  before?: StateTensors;
  /** int32 [batch], the positions of each row that count: the state stops there. Undefined: all of them. */
  lengths?: Tensor;
  /** Takes what the last position that counts leaves. */
  keep?(after: StateTensors): void;
}

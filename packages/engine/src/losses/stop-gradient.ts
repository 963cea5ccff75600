/** Parts of a loss that count as constants when it is differentiated. */
import { type Tensor, tf } from '@anneal/tensorflow';
import { constant } from '../layers/constant.ts';

let held: HeldConstants | undefined;

/**
 * The result of `compute` as a constant: tfjs neither differentiates it nor asks its ops for gradients, so comparisons of
 * logprobs (which have none) belong in here too.
 */
export function stopGradient(compute: () => Tensor): Tensor {
  if (held) return held.next(compute);
  return constant(compute);
}

/**
 * Keeps the values of the constants of one evaluation for others: finite differences then see the function that the
 * gradient belongs to, in which constants do not move with the logprobs.
 */
export class HeldConstants {
  readonly #values: Tensor[] = [];
  #next = 0;

  /** Evaluates a loss; the first call records its constants, later ones get them back in the same order. */
  run<T>(evaluate: () => T): T {
    this.#next = 0;
    held = this;
    try {
      return evaluate();
    } finally {
      held = undefined;
    }
  }

  next(compute: () => Tensor): Tensor {
    const index = this.#next++;
    this.#values[index] ??= tf.keep(constant(compute));
    return constant(() => tf.clone(this.#values[index]!));
  }

  dispose(): void {
    tf.dispose(this.#values);
  }
}

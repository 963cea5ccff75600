/** The order of one model's requests: each is submitted when the one before it has been taken by the server. */
import { TinkerError } from '../core/errors.ts';

/** Numbers reserved for one call, ascending. */
export type SeqIds = readonly number[];

export class Turns {
  #last: Promise<unknown> = Promise.resolve();
  #count = 0;
  #broken: unknown;

  /**
   * Reserves `count` numbers now and runs `submit` when all earlier calls have submitted theirs.
   *
   * @param submit resolves when the server has taken all of them
   */
  take<T>(count: number, submit: (seqIds: SeqIds) => Promise<T>): Promise<T> {
    this.checkUnbroken();
    const first = this.#count + 1;
    this.#count += count;
    const seqIds = Array.from({ length: count }, (_, index) => first + index);
    const turn = this.#last.then(() => {
      this.checkUnbroken();
      return submit(seqIds);
    });
    this.#last = turn.catch(() => undefined);
    return turn;
  }

  /** Refuses everything from now on: reserved numbers will never be sent, and the server waits for them. */
  break(cause: unknown): void {
    this.#broken ??= cause;
  }

  /** @throws TinkerError after {@link break}. */
  checkUnbroken(): void {
    if (this.#broken === undefined) return;
    const message =
      'an earlier forwardBackwardCustom failed half-way; this training client takes no more requests';
    throw new TinkerError(message, { cause: this.#broken });
  }
}

/** Bounds on what is under way at once. Waiters are served in the order in which they came. */

interface Waiter {
  amount: number;
  enter: () => void;
}

abstract class Gate {
  readonly #waiting = new Set<Waiter>();

  protected abstract canEnter(): boolean;
  protected abstract take(amount: number): void;

  /** Runs `work` when there is room. */
  async use<T>(amount: number, signal: AbortSignal | undefined, work: () => Promise<T>): Promise<T> {
    const release = await this.acquire(amount, signal);
    try {
      return await work();
    } finally {
      release();
    }
  }

  /** Takes `amount` when there is room, and gives the function that returns it. */
  async acquire(amount: number, signal?: AbortSignal): Promise<() => void> {
    signal?.throwIfAborted();
    if (this.#waiting.size === 0 && this.canEnter()) this.take(amount);
    else await this.#wait(amount, signal);
    let held = true;
    return () => {
      if (!held) return;
      held = false;
      this.take(-amount);
      this.#admit();
    };
  }

  #wait(amount: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const leave = () => {
        this.#waiting.delete(waiter);
        signal?.removeEventListener('abort', abort);
      };
      const abort = () => {
        leave();
        reject(signal?.reason);
        this.#admit();
      };
      const waiter = {
        amount,
        enter: () => {
          leave();
          resolve();
        },
      };
      signal?.addEventListener('abort', abort, { once: true });
      this.#waiting.add(waiter);
    });
  }

  #admit(): void {
    for (const waiter of this.#waiting) {
      if (!this.canEnter()) return;
      this.take(waiter.amount);
      waiter.enter();
    }
  }
}

/** At most `limit` at once. */
export class Semaphore extends Gate {
  #free: number;

  constructor(limit: number) {
    super();
    this.#free = limit;
  }

  protected canEnter(): boolean {
    return this.#free > 0;
  }

  protected take(amount: number): void {
    this.#free -= amount;
  }
}

/** A budget of bytes. Whoever finds any left may enter, however much it takes: one large item must be able to pass. */
export class ByteBudget extends Gate {
  #left: number;

  constructor(limit: number) {
    super();
    this.#left = limit;
  }

  protected canEnter(): boolean {
    return this.#left >= 0;
  }

  protected take(amount: number): void {
    this.#left -= amount;
  }
}

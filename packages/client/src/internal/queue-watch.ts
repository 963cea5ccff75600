/** Tells the user when requests wait for the server's capacity. */
import type { TryAgainResponse } from '@anneal/types';
import type { ResolvedOptions } from '../core/options.ts';

const LOG_INTERVAL_MS = 60_000;

const REASONS = {
  paused_rate_limit: 'a rate limit was hit',
  paused_capacity: 'the server is short of capacity',
} as const;

/** Watches the requests of one client. */
export class QueueWatch {
  readonly #options: Pick<ResolvedOptions, 'logger' | 'onQueueState'>;
  /** For example `Sampling of S:sample:0`. */
  readonly #subject: string;
  /** Milliseconds of pause that are not worth a line. */
  readonly #patienceMs: number;
  readonly #pausedSince = new Map<string, number>();
  #loggedAt = Number.NEGATIVE_INFINITY;

  constructor(
    options: Pick<ResolvedOptions, 'logger' | 'onQueueState'>,
    subject: string,
    patienceMs: number,
  ) {
    this.#options = options;
    this.#subject = subject;
    this.#patienceMs = patienceMs;
  }

  report(requestId: string, requestType: string, answer: TryAgainResponse): void {
    const { queue_state: queueState, queue_state_reason } = answer;
    const reason = queue_state_reason ?? undefined;
    if (this.#options.onQueueState) {
      this.#options.onQueueState({ queueState, reason, requestType, requestId });
      return;
    }
    if (queueState === 'active') this.#pausedSince.delete(requestId);
    else this.#log(requestId, reason ?? REASONS[queueState]);
  }

  finished(requestId: string): void {
    this.#pausedSince.delete(requestId);
  }

  #log(requestId: string, reason: string): void {
    const now = Date.now();
    const since = this.#pausedSince.get(requestId) ?? now;
    this.#pausedSince.set(requestId, since);
    if (now - since < this.#patienceMs || now - this.#loggedAt < LOG_INTERVAL_MS) return;
    this.#loggedAt = now;
    this.#options.logger.warn(`${this.#subject} is paused: ${reason}`);
  }
}

import { ApiError } from '../errors.ts';

/** A request in its model's order. */
export interface SequencedJob {
  seq: bigint;
  /** Wait until everything before it has ended, because its preparation reads what they write. */
  barrier: boolean;
  /**
   * Hands the work to the engine. The next job starts as soon as this returns or resolves: the engine keeps a model's
   * calls in order, so requests in flight leave it no idle gap. `done` resolves when the work has ended, and never
   * rejects.
   */
  start(): { done: Promise<void> } | Promise<{ done: Promise<void> }>;
  /** Ends a job that never started. */
  abandon(error: ApiError): void;
}

/** Runs the requests of one model strictly by sequence number, whatever the order of their arrival. */
export class Sequencer {
  readonly #modelId: string;
  readonly #gapMs: number;
  readonly #waiting = new Map<bigint, SequencedJob>();
  readonly #consumed = new Set<bigint>();
  readonly #ready: SequencedJob[] = [];
  readonly #inFlight = new Set<Promise<void>>();
  #next: bigint;
  #isRunning = false;
  #running: Promise<void> = Promise.resolve();
  #gapTimer: NodeJS.Timeout | undefined;

  /**
   * `numbers`: those of the requests that are remembered, from any process. Before the smallest of them everything is
   * over; a hole among them is waited for.
   */
  constructor(modelId: string, used: { lastSeq: bigint; numbers: bigint[] }, gapMs: number) {
    this.#modelId = modelId;
    this.#gapMs = gapMs;
    for (const seq of used.numbers) this.#consumed.add(seq);
    this.#next = [...used.numbers].sort(ascending)[0] ?? used.lastSeq + 1n;
    this.#advance();
  }

  /** The number that comes next in order. */
  get next(): bigint {
    return this.#next;
  }

  /** A number for a client that does not count: after all that are known. */
  free(): bigint {
    let seq = this.#next;
    while (this.#waiting.has(seq) || this.#consumed.has(seq)) seq += 1n;
    return seq;
  }

  get isIdle(): boolean {
    return !this.#isRunning && this.#waiting.size === 0 && this.#inFlight.size === 0;
  }

  add(job: SequencedJob): void {
    if (job.seq < this.#next) {
      job.abandon(
        new ApiError(
          'internal',
          `Request ${job.seq} of ${this.#modelId} came after its turn: the server had given up waiting for it`,
        ),
      );
      return;
    }
    this.#waiting.set(job.seq, job);
    this.#advance();
  }

  /** Takes a number out of the order: its request was refused. */
  skip(seq: bigint): void {
    if (seq >= this.#next) this.#consumed.add(seq);
    this.#advance();
  }

  /** Ends everything that has not started. */
  abandon(error: ApiError): void {
    clearTimeout(this.#gapTimer);
    const jobs = [...this.#ready.splice(0), ...this.#waiting.values()];
    for (const seq of this.#waiting.keys()) this.#consumed.add(seq);
    this.#waiting.clear();
    this.#advance();
    for (const job of jobs) job.abandon(error);
  }

  /** Resolves when everything that was ready has ended; what waits for a missing number keeps waiting. */
  async settled(): Promise<void> {
    while (this.#isRunning || this.#inFlight.size > 0) {
      await this.#running;
      await Promise.all(this.#inFlight);
    }
  }

  #advance(): void {
    for (;;) {
      const job = this.#waiting.get(this.#next);
      if (job) this.#ready.push(job);
      else if (!this.#consumed.has(this.#next)) break;
      this.#waiting.delete(this.#next);
      this.#consumed.delete(this.#next);
      this.#next += 1n;
    }
    this.#watchGap();
    if (this.#ready.length > 0 && !this.#isRunning) this.#running = this.#run();
  }

  async #run(): Promise<void> {
    this.#isRunning = true;
    for (let job = this.#ready.shift(); job; job = this.#ready.shift()) {
      if (job.barrier) await Promise.all(this.#inFlight);
      const started = job.start();
      const { done } = started instanceof Promise ? await started : started;
      this.#inFlight.add(done);
      void done.then(() => this.#inFlight.delete(done));
    }
    this.#isRunning = false;
  }

  /** Requests behind a number that never comes must not wait for ever. */
  #watchGap(): void {
    clearTimeout(this.#gapTimer);
    this.#gapTimer = undefined;
    if (this.#waiting.size === 0) return;
    this.#gapTimer = setTimeout(() => this.#giveUp(), this.#gapMs);
    this.#gapTimer.unref();
  }

  #giveUp(): void {
    const missing = this.#next;
    const jobs = [...this.#waiting.values()].sort((a, b) => ascending(a.seq, b.seq));
    const last = jobs.at(-1)?.seq ?? missing;
    this.#waiting.clear();
    this.#next = last + 1n;
    const seconds = Math.round(this.#gapMs / 1000);
    const message = `Request ${missing} of ${this.#modelId} did not arrive within ${seconds} s; the requests after it cannot run in order`;
    for (const job of jobs) job.abandon(new ApiError('internal', message));
    this.#advance();
  }
}

function ascending(a: bigint, b: bigint): number {
  return a < b ? -1 : Number(a > b);
}

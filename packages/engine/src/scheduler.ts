/**
 * Shares one device between training and sampling.
 *
 * Policy: training calls of one model run in order, models take turns; training and sampling, when both have work, get
 * equal device time (whoever has used less goes next, with no credit kept for idle time). A unit of work is one training
 * pass, one prefill or one decode step; between units the thread answers messages. Small training calls that wait behind one of
 * their kind, of the same model or of others, run with it. A call whose base model is not loaded lets other models' calls go first.
 */
import { EngineError } from './engine.ts';
import type { Release } from './residency.ts';

/** A training call: a generator that yields between passes, or a plain function. */
export type TrainingWork<T> = () => Generator<void, T> | Promise<T> | T;

/** How a call can run together with others. */
export interface Joinable<I, T> {
  /** Calls of one kind can run together; asked when one of them is about to run. */
  kind(): string | undefined;
  /** Tokens, of which only so many run together. */
  size: number;
  item: I;
  /** Runs calls of this kind together; results in their order, an error for each that failed. */
  run(items: I[]): Generator<void, (T | Error)[]>;
}

export interface CallOptions<T, I> {
  joinable?: Joinable<I, T>;
  /** Asked when the call is the model's first: lets it begin, now or later. */
  enter?: () => Release | Promise<Release>;
}

interface Task {
  work: TrainingWork<unknown>;
  joinable: Joinable<unknown, unknown> | undefined;
  enter: (() => Release | Promise<Release>) | undefined;
  /** It has been asked for, and is not yet allowed to begin. */
  isWaiting: boolean;
  release: Release | undefined;
  resolve: (value: never) => void;
  reject: (error: Error) => void;
}

export interface SamplingSource {
  readonly hasWork: boolean;
  work(): void;
}

/** Beyond this, a pass gains nothing from more rows. */
const JOINED_TOKENS = 2048;

export class Scheduler {
  readonly #queues = new Map<string, Task[]>();
  readonly #sources: () => Iterable<SamplingSource>;
  #current: { tasks: Task[]; steps: Generator<void, unknown[]> } | undefined;
  #busy = false;
  #usedByTraining = 0;
  #usedBySampling = 0;
  #nextSource = 0;

  constructor(sources: () => Iterable<SamplingSource>) {
    this.#sources = sources;
  }

  get queuedTraining(): number {
    let count = this.#current?.tasks.length ?? 0;
    for (const queue of this.#queues.values()) count += queue.length;
    return count;
  }

  /** Queues work behind the model's earlier calls. */
  enqueue<T, I>(
    modelId: string,
    work: TrainingWork<T>,
    { joinable, enter }: CallOptions<T, I> = {},
  ): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      const queue = this.#queues.get(modelId) ?? [];
      queue.push({
        work,
        // Whoever runs calls together hands each the items of its own kind only.
        joinable: joinable as Joinable<unknown, unknown> | undefined,
        enter,
        isWaiting: false,
        release: undefined,
        resolve: resolve as (value: never) => void,
        reject,
      });
      this.#queues.set(modelId, queue);
      this.wake();
    });
  }

  /** Models that have calls which have not begun. */
  get queuedModels(): Iterable<string> {
    return this.#queues.keys();
  }

  /** Resolves once nothing is queued or running. */
  async drain(): Promise<void> {
    while (this.#busy || this.#queues.size > 0) await new Promise((resolve) => setImmediate(resolve));
  }

  /** Starts the loop if it sleeps. */
  wake(): void {
    if (this.#busy) return;
    this.#busy = true;
    setImmediate(() => void this.#loop());
  }

  async #loop(): Promise<void> {
    for (;;) {
      const sampling = this.#samplingSources();
      const training = this.#current !== undefined || this.#hasReadyCalls();
      if (!training && sampling.length === 0) break;
      const start = performance.now();
      if (training && (sampling.length === 0 || this.#usedByTraining <= this.#usedBySampling)) {
        await this.#train();
        this.#usedByTraining += performance.now() - start;
      } else {
        sampling[this.#nextSource++ % sampling.length]!.work();
        this.#usedBySampling += performance.now() - start;
      }
      if (!training || sampling.length === 0) this.#usedByTraining = this.#usedBySampling = 0;
      await new Promise((resolve) => setImmediate(resolve));
    }
    this.#busy = false;
  }

  #samplingSources(): SamplingSource[] {
    return [...this.#sources()].filter((source) => source.hasWork);
  }

  async #train(): Promise<void> {
    this.#current ??= await this.#startNext();
    if (!this.#current) return;
    const { tasks, steps } = this.#current;
    try {
      const { done, value } = steps.next();
      if (!done) return;
      tasks.forEach((task, i) => {
        const result = value[i];
        if (result instanceof Error) task.reject(asEngineError(result));
        else task.resolve(result as never);
      });
    } catch (error) {
      for (const task of tasks) task.reject(asEngineError(error));
    }
    this.#current = undefined;
    for (const task of tasks) task.release?.();
  }

  #hasReadyCalls(): boolean {
    return [...this.#queues.values()].some(([first]) => !first!.isWaiting);
  }

  /** Takes the next model's first call, and those that run with it; plain functions are run at once. */
  async #startNext(): Promise<{ tasks: Task[]; steps: Generator<void, unknown[]> } | undefined> {
    const next = this.#takeNext();
    if (!next) return undefined;
    const { modelId, task } = next;
    const { joinable } = task;
    const joined = joinable ? this.#takeJoined(modelId, joinable) : [];
    if (joinable && joined.length > 0) {
      const tasks = [task, ...joined];
      return { tasks, steps: joinable.run(tasks.map((one) => one.joinable!.item)) };
    }
    try {
      const started = task.work();
      if (isGenerator(started)) return { tasks: [task], steps: asList(started) };
      task.resolve((await started) as never);
    } catch (error) {
      task.reject(asEngineError(error));
    }
    task.release?.();
    return undefined;
  }

  /** The first call, in the order of models, that may begin now. */
  #takeNext(): { modelId: string; task: Task } | undefined {
    for (const [modelId, queue] of this.#queues) {
      const task = queue[0]!;
      if (task.isWaiting || !this.#mayBegin(modelId, task)) continue;
      queue.shift();
      // Re-inserting moves the model behind the others.
      this.#queues.delete(modelId);
      if (queue.length > 0) this.#queues.set(modelId, queue);
      return { modelId, task };
    }
    return undefined;
  }

  #mayBegin(modelId: string, task: Task): boolean {
    if (!task.enter || task.release) return true;
    const refuse = (error: unknown): void => {
      this.#remove(modelId, task);
      task.reject(asEngineError(error));
      this.wake();
    };
    try {
      const entered = task.enter();
      if (!(entered instanceof Promise)) {
        task.release = entered;
        return true;
      }
      task.isWaiting = true;
      entered.then((release) => {
        task.isWaiting = false;
        task.release = release;
        this.wake();
      }, refuse);
    } catch (error) {
      refuse(error);
    }
    return false;
  }

  #remove(modelId: string, task: Task): void {
    const queue = this.#queues.get(modelId)?.filter((other) => other !== task) ?? [];
    if (queue.length > 0) this.#queues.set(modelId, queue);
    else this.#queues.delete(modelId);
  }

  /** Takes calls of this kind from the fronts of the queues, the model's own first, as far as all of them are small. */
  #takeJoined(modelId: string, { kind: kindOf, size }: Joinable<unknown, unknown>): Task[] {
    const kind = kindOf();
    if (kind === undefined) return [];
    const own = this.#queues.get(modelId);
    const others = [...this.#queues].flatMap(([id, queue]) => (id === modelId ? [] : [queue]));
    const taken: Task[] = [];
    let total = size;
    for (const queue of [...(own ? [own] : []), ...others]) {
      for (;;) {
        const [task] = queue;
        const next = task?.joinable;
        if (!task || !next || task.isWaiting || next.kind() !== kind) break;
        if (total + next.size > JOINED_TOKENS) break;
        taken.push(task);
        queue.shift();
        total += next.size;
      }
    }
    for (const [id, queue] of this.#queues) if (queue.length === 0) this.#queues.delete(id);
    return taken;
  }
}

function* asList<T>(steps: Generator<void, T>): Generator<void, T[]> {
  return [yield* steps];
}

function isGenerator(value: unknown): value is Generator<void, unknown> {
  return typeof value === 'object' && value !== null && Symbol.iterator in value && 'next' in value;
}

/** Errors that are not ours become server errors, with the cause kept for the log. */
export function asEngineError(error: unknown): EngineError {
  if (error instanceof EngineError) return error;
  const message = error instanceof Error ? error.message : String(error);
  return new EngineError('server', `The engine failed: ${message}`, { cause: error });
}

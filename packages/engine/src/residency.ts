/**
 * Whose weights are in memory: loads a base model's when work needs them, and unloads those of others when their room is needed.
 *
 * Policy: models without work leave first, the longest unused before others. Where all have work, those that came first take on
 * nothing new and leave when what they have has ended; what comes for them meanwhile waits its turn. A model stays for at least as
 * long as its loading took, so that no more than half of the time goes into loading.
 */
import { EngineError } from './engine.ts';

export interface Loadable {
  /** As users call it. */
  readonly name: string;
  /** Memory that its weights take. */
  readonly weightBytes: number;
  /** Whether there is work that has not begun. */
  hasQueuedWork(): boolean;
  /** Loads the weights, yielding in between; ended early, it frees what it has. */
  loading(): Generator<void, void>;
  unload(): void;
}

/** Says that a piece of work has ended; to be called once. */
export type Release = () => void;

export type ResidentState = 'unloaded' | 'loading' | 'loaded';

interface Waiter {
  resolve: (release: Release) => void;
  reject: (error: Error) => void;
}

interface Resident {
  readonly model: Loadable;
  state: ResidentState;
  /** Pieces of work under way. */
  users: number;
  waiters: Waiter[];
  /** Of all loads and uses, which one its latest was. */
  usedAt: number;
  loadedAt: number;
  /** Time before which it need not leave. */
  staysUntil: number;
}

const MIB = 2 ** 20;

export class Residency {
  readonly #budgetBytes: number;
  readonly #residents = new Map<Loadable, Resident>();
  /** Those that wait to be loaded, or to go on, in the order in which they came. */
  #turns: Resident[] = [];
  #loading: Promise<void> | undefined;
  #later: NodeJS.Timeout | undefined;
  #clock = 0;
  #closed = false;
  #loads = 0;
  #unloads = 0;

  /** @param budgetBytes What the weights of loaded models may take together. */
  constructor(budgetBytes = Number.POSITIVE_INFINITY) {
    this.#budgetBytes = budgetBytes;
  }

  /** Loads and unloads so far. */
  get counts(): { loads: number; unloads: number } {
    return { loads: this.#loads, unloads: this.#unloads };
  }

  /** Memory of the weights that are loaded, or being loaded. */
  get bytes(): number {
    return this.#present().reduce((sum, { model }) => sum + model.weightBytes, 0);
  }

  stateOf(model: Loadable): ResidentState {
    return this.#residentOf(model).state;
  }

  /** Whether a model can be loaded without another's leaving. */
  hasRoomFor(model: Loadable): boolean {
    return this.bytes + model.weightBytes <= this.#budgetBytes;
  }

  /** @throws EngineError (user) for a model that the budget can never hold. */
  refuseIfTooLarge({ name, weightBytes }: Loadable): void {
    if (weightBytes <= this.#budgetBytes) return;
    const [need, budget] = [Math.ceil(weightBytes / MIB), Math.floor(this.#budgetBytes / MIB)];
    throw new EngineError(
      'user',
      `base_model "${name}" cannot be loaded: its weights take ${need} MiB, and modelMemoryMiB (--model-memory-mib) allows ${budget} for all. Raise it, or choose a smaller precision.`,
    );
  }

  /**
   * Begins a piece of work on a model: at once where its weights are there, or else when they are. Until the work has ended, they stay.
   * @param signal Gives up waiting.
   * @throws EngineError (by rejection) when the model cannot be loaded; the next one who asks tries again.
   */
  enter(model: Loadable, signal?: AbortSignal): Release | Promise<Release> {
    const resident = this.#residentOf(model);
    if (resident.state === 'loaded' && !this.#mustLeave(resident)) return this.#use(resident);
    return new Promise((resolve, reject) => {
      this.refuseIfTooLarge(model);
      if (this.#closed) throw closing();
      signal?.throwIfAborted();
      const waiter = { resolve, reject };
      resident.waiters.push(waiter);
      signal?.addEventListener('abort', () => this.#giveUp(resident, waiter, signal), { once: true });
      if (resident.state !== 'loading' && !this.#turns.includes(resident)) this.#turns.push(resident);
      this.#advance();
    });
  }

  /** To be called when a model may have run out of queued work. */
  reconsider(): void {
    if (this.#turns.length > 0) this.#advance();
  }

  /** Rejects those who wait, and lets a load that runs end early. Work on loaded models can still begin. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#turns = [];
    clearTimeout(this.#later);
    for (const resident of this.#residents.values()) reject(resident, closing());
    await this.#loading;
  }

  #residentOf(model: Loadable): Resident {
    let resident = this.#residents.get(model);
    if (!resident) {
      const none = { users: 0, waiters: [], usedAt: 0, loadedAt: 0, staysUntil: 0 };
      resident = { model, state: 'unloaded', ...none };
      this.#residents.set(model, resident);
    }
    return resident;
  }

  #present(): Resident[] {
    return [...this.#residents.values()].filter(({ state }) => state !== 'unloaded');
  }

  #use(resident: Resident): Release {
    resident.users += 1;
    resident.usedAt = ++this.#clock;
    return () => {
      resident.users -= 1;
      resident.usedAt = ++this.#clock;
      if (resident.users === 0) this.#advance();
    };
  }

  #giveUp(resident: Resident, waiter: Waiter, signal: AbortSignal): void {
    if (!resident.waiters.includes(waiter)) return;
    resident.waiters = resident.waiters.filter((other) => other !== waiter);
    waiter.reject(signal.reason as Error);
    if (resident.waiters.length > 0 || resident.state === 'loading') return;
    this.#turns = this.#turns.filter((other) => other !== resident);
    this.#advance();
  }

  /** Whether others wait for this one's room. */
  #mustLeave(resident: Resident): boolean {
    const next = this.#turns.find(({ state }) => state === 'unloaded');
    return (
      next !== undefined &&
      performance.now() >= resident.staysUntil &&
      this.#inTheWay(next).includes(resident)
    );
  }

  /** Those that have to leave before a model fits: without work first, and of those with work the ones that came first. */
  #inTheWay({ model }: Resident): Resident[] {
    let missing = this.bytes + model.weightBytes - this.#budgetBytes;
    const loaded = this.#present().filter(({ state }) => state === 'loaded');
    const idle = loaded.filter(({ users }) => users === 0).sort((a, b) => a.usedAt - b.usedAt);
    const busy = loaded.filter(({ users }) => users > 0).sort((a, b) => a.loadedAt - b.loadedAt);
    return [...idle, ...busy].filter((resident) => {
      if (missing <= 0) return false;
      missing -= resident.model.weightBytes;
      return true;
    });
  }

  /** Gives the next in turn what it waits for, as far as it can be given now. */
  #advance(): void {
    while (!this.#loading && this.#turns.length > 0) {
      const next = this.#turns[0]!;
      if (next.state === 'unloaded') {
        const leaving = this.#inTheWay(next);
        if (!this.#canLeave(leaving)) return;
        for (const resident of leaving) this.#unload(resident);
        this.#loading = this.#load(next).finally(() => {
          this.#loading = undefined;
          this.#advance();
        });
      } else this.#admit(next);
      this.#turns.shift();
    }
  }

  #canLeave(leaving: Resident[]): boolean {
    if (leaving.some(({ users }) => users > 0)) return false;
    const now = performance.now();
    const staying = leaving.filter(({ model, staysUntil }) => now < staysUntil && model.hasQueuedWork());
    if (staying.length === 0) return true;
    clearTimeout(this.#later);
    const wait = Math.max(...staying.map(({ staysUntil }) => staysUntil - now));
    this.#later = setTimeout(() => this.#advance(), wait);
    return false;
  }

  #unload(resident: Resident): void {
    resident.model.unload();
    resident.state = 'unloaded';
    this.#unloads += 1;
  }

  async #load(resident: Resident): Promise<void> {
    const { model } = resident;
    resident.state = 'loading';
    const started = performance.now();
    try {
      for (const _ of model.loading()) {
        // Messages are answered and other models work between two tensors.
        await new Promise((resolve) => setImmediate(resolve));
        if (this.#closed) throw closing();
      }
      const now = performance.now();
      resident.state = 'loaded';
      resident.loadedAt = ++this.#clock;
      resident.staysUntil = now + (now - started);
      this.#loads += 1;
      this.#admit(resident);
    } catch (error) {
      resident.state = 'unloaded';
      reject(resident, this.#closed ? closing() : loadError(model, error));
    }
  }

  #admit(resident: Resident): void {
    for (const { resolve } of resident.waiters.splice(0)) resolve(this.#use(resident));
  }
}

function reject(resident: Resident, error: Error): void {
  for (const waiter of resident.waiters.splice(0)) waiter.reject(error);
}

function loadError({ name }: Loadable, cause: unknown): EngineError {
  const category = cause instanceof EngineError ? cause.category : 'server';
  const message = cause instanceof Error ? cause.message : String(cause);
  return new EngineError(category, `base_model "${name}" cannot be loaded: ${message}`, { cause });
}

function closing(): EngineError {
  return new EngineError('server', 'The engine is shutting down.');
}

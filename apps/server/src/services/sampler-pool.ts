import type { Engine, SamplerSource } from '@anneal/engine';
import type { FastifyBaseLogger } from 'fastify';

/** Weights to sample from: a base model, or stored content, which never changes under its key. */
export type Weights = { baseModel: string; blob: string | null };

interface OpenSampler {
  ready: Promise<void>;
  users: number;
  lastUsed: number;
}

/**
 * Samplers that the engine holds. Samplers of the same weights share one; beyond a limit, the longest unused one is
 * closed, and opened again from its stored content when it is needed.
 */
export class SamplerPool {
  readonly #engine: Engine;
  readonly #log: FastifyBaseLogger;
  readonly #limit: number;
  readonly #open = new Map<string, OpenSampler>();
  #clock = 0;

  constructor(engine: Engine, log: FastifyBaseLogger, limit: number) {
    this.#engine = engine;
    this.#log = log;
    this.#limit = limit;
  }

  get size(): number {
    return this.#open.size;
  }

  /** The engine's name for these weights. */
  idOf(weights: Weights): string {
    return weights.blob === null ? `base:${weights.baseModel}` : `adapter:${weights.blob}`;
  }

  /** Opens a sampler unless it is open. `source` is asked only when it is not; the engine is called at once then. */
  async open(weights: Weights, source: () => SamplerSource | Promise<SamplerSource>): Promise<string> {
    const id = this.idOf(weights);
    const entry = this.#open.get(id) ?? this.#add(id, source);
    this.#clock += 1;
    entry.lastUsed = this.#clock;
    await entry.ready;
    return id;
  }

  /** Runs `work` while the sampler stays open. */
  async use<T>(
    weights: Weights,
    source: () => SamplerSource | Promise<SamplerSource>,
    work: (samplerId: string) => Promise<T>,
  ): Promise<T> {
    const id = this.idOf(weights);
    const entry = this.#open.get(id) ?? this.#add(id, source);
    this.#clock += 1;
    entry.lastUsed = this.#clock;
    entry.users += 1;
    try {
      await entry.ready;
      return await work(id);
    } finally {
      entry.users -= 1;
    }
  }

  /** Frees these weights if nobody samples from them; they can be opened again. */
  close(weights: Weights): void {
    const id = this.idOf(weights);
    if (this.#open.get(id)?.users === 0) this.#close(id);
  }

  #add(id: string, source: () => SamplerSource | Promise<SamplerSource>): OpenSampler {
    this.#makeRoom();
    const given = source();
    const ready =
      given instanceof Promise
        ? given.then((found) => this.#engine.openSampler(id, found))
        : this.#engine.openSampler(id, given);
    const entry: OpenSampler = { ready, users: 0, lastUsed: this.#clock };
    this.#open.set(id, entry);
    ready.catch(() => this.#open.delete(id));
    return entry;
  }

  #makeRoom(): void {
    while (this.#open.size >= this.#limit) {
      const idle = [...this.#open].filter(([, entry]) => entry.users === 0);
      const oldest = idle.sort(([, a], [, b]) => a.lastUsed - b.lastUsed)[0];
      if (!oldest) return;
      this.#close(oldest[0]);
    }
  }

  #close(id: string): void {
    this.#open.delete(id);
    this.#engine.closeSampler(id).catch((error: unknown) => {
      this.#log.warn({ err: error, sampler: id }, 'a sampler could not be closed');
    });
  }
}

/** Samplers by the names under which they were opened: a base model with the adapter of a moment. */
import { EngineError, type SampleOptions, type SampleRequest, type SampleResult } from './engine.ts';
import type { LoraAdapter } from './lora/adapter.ts';
import type { Release, Residency } from './residency.ts';
import { cancelled } from './sampling/job.ts';
import type { ServedModel } from './served-model.ts';

interface OpenSampler {
  served: ServedModel;
  adapter: LoraAdapter | undefined;
  /** Requests that wait for the base model. */
  waiting: number;
}

const LOOK_MS = 20;

export class OpenSamplers {
  readonly #residency: Residency;
  readonly #wake: () => void;
  readonly #samplers = new Map<string, OpenSampler>();

  /** @param wake Called when a sampler has got work. */
  constructor(residency: Residency, wake: () => void) {
    this.#residency = residency;
    this.#wake = wake;
  }

  get size(): number {
    return this.#samplers.size;
  }

  /** Takes the adapter over. */
  add(samplerId: string, served: ServedModel, adapter: LoraAdapter | undefined): void {
    this.#samplers.set(samplerId, { served, adapter, waiting: 0 });
  }

  /** Frees a sampler, once no request uses it. */
  async close(samplerId: string): Promise<void> {
    const sampler = this.#samplers.get(samplerId);
    if (!sampler) return;
    this.#samplers.delete(samplerId);
    while (sampler.waiting > 0) await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
    await sampler.served.sampler.whenUnused(sampler.adapter);
    sampler.adapter?.dispose();
  }

  async sample(request: SampleRequest, options: SampleOptions): Promise<SampleResult> {
    const sampler = this.#samplers.get(request.samplerId);
    if (!sampler)
      throw new EngineError(
        'user',
        `Sampler "${request.samplerId}" does not exist: it was closed, or the server has restarted.`,
      );
    const { served, adapter } = sampler;
    const entered = this.#residency.enter(served, options.signal);
    const release = entered instanceof Promise ? await waited(sampler, entered, options.signal) : entered;
    try {
      const result = served.sampler.submit(request, adapter, options);
      this.#wake();
      return await result;
    } finally {
      release();
    }
  }

  dispose(): void {
    for (const { adapter } of this.#samplers.values()) adapter?.dispose();
    this.#samplers.clear();
  }
}

/** What a request waits for; its sampler is not freed meanwhile. */
async function waited(
  sampler: OpenSampler,
  entered: Promise<Release>,
  signal: AbortSignal | undefined,
): Promise<Release> {
  sampler.waiting++;
  try {
    return await entered;
  } catch (error) {
    throw signal?.aborted ? cancelled() : error;
  } finally {
    sampler.waiting--;
  }
}

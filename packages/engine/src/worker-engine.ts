/** An engine in a worker thread, behind the same interface: the HTTP thread never waits for TensorFlow. */
import { Worker } from 'node:worker_threads';
import { setTensorflowDefaults } from '@anneal/tensorflow';
import { EngineError, type ProfilingEngine, type SampleOptions, type SampleProgress } from './engine.ts';
import type { EngineOptions } from './local-engine.ts';
import type { EngineMethod, FromWorker, ToWorker, WireError, WorkerStart } from './worker-protocol.ts';

interface PendingCall {
  resolve: (value: never) => void;
  reject: (error: Error) => void;
  onProgress: ((progress: SampleProgress) => void) | undefined;
}

/** Methods that are plain calls; `sample` and `close` have wrappers of their own. */
const PLAIN = [
  'baseModels',
  'status',
  'createModel',
  'loadCheckpoint',
  'unloadModel',
  'forwardBackward',
  'optimStep',
  'saveCheckpoint',
  'openSampler',
  'closeSampler',
  'startProfile',
  'stopProfile',
] as const satisfies EngineMethod[];

export interface WorkerEngineOptions extends EngineOptions {
  /** The addon to load, from `prepareTensorflow`; without it, the slow wasm backend. */
  addonPath?: string;
  /** Called when the worker dies; calls under way have been rejected. */
  onExit?: (error: Error) => void;
}

/**
 * Starts the worker and loads the models.
 * @throws EngineError when a model cannot be loaded.
 */
export async function createWorkerEngine({
  addonPath,
  onExit,
  ...options
}: WorkerEngineOptions): Promise<ProfilingEngine> {
  if (addonPath !== undefined) setTensorflowDefaults(addonPath);
  const fromSource = import.meta.url.endsWith('.ts');
  const worker = new Worker(new URL(fromSource ? './worker.ts' : './worker.js', import.meta.url), {
    workerData: { addonPath, options } satisfies WorkerStart,
    // Tests run from TypeScript sources: the worker must then find its packages' sources too.
    ...(fromSource
      ? { execArgv: ['--conditions=@anneal/source', '--disable-warning=ExperimentalWarning'] }
      : {}),
  });
  const calls = new WorkerCalls(worker, onExit);
  await calls.ready;
  return calls.engine();
}

class WorkerCalls {
  readonly ready: Promise<void>;
  readonly #worker: Worker;
  readonly #pending = new Map<number, PendingCall>();
  #nextId = 0;
  #dead: Error | undefined;

  constructor(worker: Worker, onExit: ((error: Error) => void) | undefined) {
    this.#worker = worker;
    this.ready = new Promise((resolve, reject) => {
      worker.on('message', (message: FromWorker) => {
        if (message.type === 'ready') resolve();
        else if (message.type === 'failed') reject(engineError(message.error));
        else this.#receive(message);
      });
      const die = (error: Error) => {
        if (this.#dead) return;
        this.#dead = error;
        reject(error);
        for (const { reject: rejectCall } of this.#pending.values()) rejectCall(error);
        this.#pending.clear();
        onExit?.(error);
      };
      worker.on('error', (error: Error) =>
        die(new EngineError('server', `The engine's thread failed: ${error.message}`, { cause: error })),
      );
      worker.on('exit', (code) =>
        die(new EngineError('server', `The engine's thread has ended (code ${code}).`)),
      );
    });
  }

  engine(): ProfilingEngine {
    const plain = Object.fromEntries(
      PLAIN.map((method) => [method, (...args: unknown[]) => this.#call(method, args)]),
    );
    return {
      ...(plain as unknown as Pick<ProfilingEngine, (typeof PLAIN)[number]>),
      sample: (request, options) => this.#call('sample', [request], options),
      close: async () => {
        await this.#call('close', []);
        await this.#worker.terminate();
      },
    };
  }

  #call<T>(method: EngineMethod, args: unknown[], { signal, onProgress }: SampleOptions = {}): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      if (this.#dead) return reject(this.#dead);
      const id = this.#nextId++;
      this.#pending.set(id, { resolve: resolve as (value: never) => void, reject, onProgress });
      this.#post({ type: 'call', id, method, args, wantsProgress: onProgress !== undefined });
      if (signal?.aborted) this.#post({ type: 'abort', id });
      else signal?.addEventListener('abort', () => this.#post({ type: 'abort', id }), { once: true });
    });
  }

  #post(message: ToWorker): void {
    this.#worker.postMessage(message);
  }

  #receive(message: Exclude<FromWorker, { type: 'ready' | 'failed' }>): void {
    const call = this.#pending.get(message.id);
    if (!call) return;
    if (message.type === 'progress') {
      call.onProgress?.(message.progress);
      return;
    }
    this.#pending.delete(message.id);
    if (message.type === 'result') call.resolve(message.value as never);
    else call.reject(engineError(message.error));
  }
}

function engineError({ category, message }: WireError): EngineError {
  return new EngineError(category, message);
}

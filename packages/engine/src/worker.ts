/** Entry point of the worker thread: one LocalEngine, called by messages. TensorFlow blocks, so it lives here. */
import { parentPort, workerData } from 'node:worker_threads';
import { loadTensorflow } from '@anneal/tensorflow';
import type { ProfilingEngine } from './engine.ts';
import { LocalEngine } from './local-engine.ts';
import { asEngineError } from './scheduler.ts';
import type { FromWorker, ToWorker, WireError, WorkerStart } from './worker-protocol.ts';

const port = parentPort!;
const send = (message: FromWorker) => port.postMessage(message);
const wireError = (error: unknown): WireError => {
  const { category, message } = asEngineError(error);
  return { category, message };
};

try {
  const { addonPath, options } = workerData as WorkerStart;
  await loadTensorflow({ kind: addonPath ? 'addon' : 'wasm', addonPath, gpu: false, notes: [] });
  serve(await LocalEngine.create(options));
  send({ type: 'ready' });
} catch (error) {
  send({ type: 'failed', error: wireError(error) });
}

function serve(engine: ProfilingEngine): void {
  const aborts = new Map<number, AbortController>();
  port.on('message', async (message: ToWorker) => {
    if (message.type === 'abort') {
      aborts.get(message.id)?.abort();
      return;
    }
    const { id, method, args, wantsProgress } = message;
    try {
      const controller = new AbortController();
      aborts.set(id, controller);
      if (method === 'sample') {
        args.push({
          signal: controller.signal,
          ...(wantsProgress
            ? { onProgress: (progress: never) => send({ type: 'progress', id, progress }) }
            : {}),
        });
      }
      const call = engine[method] as (...args: unknown[]) => Promise<unknown>;
      send({ type: 'result', id, value: await call.apply(engine, args) });
    } catch (error) {
      send({ type: 'error', id, error: wireError(error) });
    } finally {
      aborts.delete(id);
    }
  });
}

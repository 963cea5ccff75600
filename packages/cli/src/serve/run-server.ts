import type { ServeConfig } from '../config/serve-config.ts';
import { serve } from './serve.ts';

/** A second signal this long after the first means that the person does not want to wait. */
const PATIENCE_MS = 1000;

/** Serves until SIGTERM or SIGINT, then lets running work end, stores everything and returns. */
export async function runServer(config: ServeConfig): Promise<void> {
  let stop: (signal: NodeJS.Signals) => void = () => process.exit(130);
  const onSignal = (signal: NodeJS.Signals): void => stop(signal);
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) process.on(signal, onSignal);
  let stopping = false;
  const server = await serve(config, (error) => {
    if (stopping) return;
    process.stderr.write(`anneal: error: the engine died: ${error.message}\n`);
    process.exit(1);
  });
  await new Promise<void>((resolve) => {
    stop = () => resolve();
  });
  stopping = true;
  const since = Date.now();
  stop = () => {
    if (Date.now() - since > PATIENCE_MS) process.exit(130);
  };
  process.stderr.write('anneal: stopping: finishing what runs and storing models in training\n');
  await server.close();
  process.stderr.write('anneal: stopped\n');
  process.exit(0);
}

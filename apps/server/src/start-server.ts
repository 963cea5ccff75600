import { mkdir } from 'node:fs/promises';
import { resolve } from 'node:path';
import { createWorkerEngine, type Engine } from '@anneal/engine';
import { FolderInUseError, lockFolder, type Store } from '@anneal/store';
import { type App, buildApp } from './build-app.ts';
import type { ServerConfig } from './config.ts';
import { findConsole } from './http/console-files.ts';
import { logOptions } from './http/logging.ts';
import { openStore } from './open-store.ts';
import { StartError } from './start-error.ts';
import { startSweeping } from './sweeper.ts';
import { openTracing } from './telemetry/open-tracing.ts';

export interface StartOptions {
  /** The TensorFlow addon of this machine. */
  addonPath?: string;
  /** Another engine than the one in a worker thread. */
  createEngine?: (config: ServerConfig, onExit: (error: Error) => void) => Promise<Engine>;
  /** Called when the engine dies under a running server: the process should end, and be started again. */
  onEngineExit?: (error: Error) => void;
}

export interface RunningServer {
  /** Where it listens, without a trailing slash. */
  url: string;
  /** A key that was made because there was none; only its hash is kept. */
  createdKey?: string;
  /** Takes nothing new, finishes what runs, stores the models in training, and closes everything. */
  close(): Promise<void>;
}

/**
 * Opens the data folder, loads the first model or more and listens. Resolves when training and sampling work.
 *
 * @throws StartError when the data folder is in use or cannot be opened, or the port is taken.
 */
export async function startServer(config: ServerConfig, options: StartOptions = {}): Promise<RunningServer> {
  const dataDir = resolve(config.dataDir);
  const unlock = await claim(dataDir);
  const closers: (() => Promise<unknown>)[] = [async () => unlock()];
  try {
    const store = await openStore(config);
    closers.unshift(() => store.close());
    const tracing = await openTracing(process.env);
    if (tracing) closers.unshift(() => tracing.close());
    const createdKey = await ensureKey(store, config.apiKey);
    await store.futures.failUnfinished('The server was restarted before this request ended; send it again');
    const engine = await startEngine(config, options);
    closers.unshift(() => engine.close());
    const app = await buildApp({
      store,
      engine,
      config,
      consoleFolder: findConsole(),
      tracing,
      logger: logOptions(config),
    });
    closers.unshift(() => app.http.close());
    const url = await listen(app, config);
    const stopSweeping = startSweeping(app.services, store, config, app.http.log);
    return {
      url,
      ...(createdKey === undefined ? {} : { createdKey }),
      close: once(async () => {
        stopSweeping();
        await app.http.close();
        const drainMs = config.drainSeconds * 1000;
        await Promise.all([app.services.sampling.close(drainMs), app.services.live.close(drainMs)]);
        await app.services.console.recorder.flush();
        await engine.close();
        await tracing?.close();
        await store.close();
        unlock();
      }),
    };
  } catch (error) {
    for (const close of closers) await close().catch(() => {});
    throw error;
  }
}

async function claim(dataDir: string): Promise<() => void> {
  try {
    await mkdir(dataDir, { recursive: true });
    return lockFolder(dataDir);
  } catch (cause) {
    const problem =
      cause instanceof FolderInUseError
        ? `is in use by another Anneal server (process ${cause.pid ?? 'unknown'}): stop it, or choose another folder`
        : `cannot be used: ${(cause as Error).message}`;
    throw new StartError(`dataDir "${dataDir}" ${problem}`, { cause });
  }
}

/** The key that was made because there was no other way in. */
async function ensureKey(store: Store, configured: string | undefined): Promise<string | undefined> {
  if (configured !== undefined) {
    await store.keys.add('default', 'from the configuration', configured);
    return undefined;
  }
  if ((await store.keys.list()).some((key) => key.revokedAt === null)) return undefined;
  return (await store.keys.create('default', 'made at the first start')).secret;
}

async function startEngine(config: ServerConfig, options: StartOptions): Promise<Engine> {
  const onExit = (error: Error): void => options.onEngineExit?.(error);
  if (options.createEngine) return await options.createEngine(config, onExit);
  if (options.addonPath === undefined) throw new StartError('addonPath: no TensorFlow addon was given');
  const aliases = Object.entries(config.aliases).map(([name, target]) => {
    const model = config.models.find((candidate) => candidate.name === target);
    if (!model) throw new StartError(`aliases: "${name}" names the model "${target}", which is not served`);
    return { name, folder: model.folder };
  });
  const models = [...config.models, ...aliases];
  const { precision, lossModules, loadAtStart, modelMemoryMiB } = config;
  return await createWorkerEngine({
    addonPath: options.addonPath,
    models,
    precision,
    loadAtStart,
    ...(modelMemoryMiB > 0 ? { modelMemoryBytes: modelMemoryMiB * 2 ** 20 } : {}),
    lossModules,
    onExit,
  });
}

async function listen(app: App, config: ServerConfig): Promise<string> {
  app.http.server.maxConnections = config.maxConnections;
  try {
    return await app.http.listen({ host: config.host, port: config.port });
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    const problem = code === 'EADDRINUSE' ? 'is in use: choose another port' : (cause as Error).message;
    throw new StartError(`port ${config.port} on ${config.host} ${problem}`, { cause });
  }
}

function once(work: () => Promise<void>): () => Promise<void> {
  let done: Promise<void> | undefined;
  return () => {
    done ??= work();
    return done;
  };
}

/** From a configuration to a running server: TensorFlow, models, server, in this order, each with its progress shown. */
import { resolve } from 'node:path';
import { resolveModel } from '@anneal/hub';
import { type RunningServer, type ServedModel, ServerConfig, startServer } from '@anneal/server';
import { prepareTensorflow, terminalProgress } from '@anneal/tensorflow';
import type { ServeConfig } from '../config/serve-config.ts';
import { CliError } from '../errors.ts';
import { modelProgress } from '../output/model-progress.ts';
import { banner } from './banner.ts';
import { modelList, tokenizerFor, type WantedModel } from './model-list.ts';
import { requireFreePort } from './port.ts';

/**
 * Starts the server and prints how to reach it. Resolves once training and sampling work; the returned server runs on.
 *
 * @throws an error with one message for the person who starts it
 */
export async function serve(
  config: ServeConfig,
  onEngineExit: (error: Error) => void,
): Promise<RunningServer> {
  const { models, aliases } = modelList(config.model, config.alias);
  await requireFreePort(config.host, config.port);
  const addonPath = await tensorflowAddon();
  const found = await findModels(models, config.host);
  const atStart = config.loadAtStart === 'all' ? found : found.slice(0, 1);
  say(`loading ${atStart.map(({ name }) => name).join(', ')}`);
  const { model: _model, alias: _alias, loss, ...settings } = config;
  const serverConfig = ServerConfig.parse({
    ...settings,
    models: found,
    aliases,
    lossModules: loss.map((file) => resolve(file)),
  });
  const server = await startServer(serverConfig, { addonPath, onEngineExit });
  const url = reachableUrl(config, server.url);
  process.stdout.write(banner({ url, key: server.createdKey ?? config.apiKey, models: found }));
  return server;
}

async function tensorflowAddon(): Promise<string> {
  const progress = terminalProgress();
  const prepared = await prepareTensorflow({ onProgress: progress.onProgress }).finally(progress.stop);
  for (const note of prepared.notes) say(note);
  if (prepared.addonPath === undefined)
    throw new CliError(`TensorFlow can't be used here: ${prepared.notes.join(' ')}`);
  return prepared.addonPath;
}

async function findModels(wanted: WantedModel[], host: string): Promise<ServedModel[]> {
  const progress = modelProgress();
  const found: ServedModel[] = [];
  try {
    for (const model of wanted) {
      const resolved = await resolveModel(model.source, { onProgress: progress.onProgress });
      const { folder, note } = resolved;
      found.push({ name: model.name, folder, tokenizer: tokenizerFor(model, resolved, host) });
      if (note) say(`${model.name}: ${note}`);
    }
  } finally {
    progress.stop();
  }
  return found;
}

/** The address to give to a client: one that listens everywhere is reached here through loopback. */
function reachableUrl({ host, publicUrl }: ServeConfig, listening: string): string {
  if (publicUrl !== undefined) return publicUrl.replace(/\/+$/, '');
  const url = new URL(listening);
  if (host === '0.0.0.0' || host === '::') url.hostname = '127.0.0.1';
  return url.origin;
}

function say(line: string): void {
  process.stderr.write(`anneal: ${line}\n`);
}

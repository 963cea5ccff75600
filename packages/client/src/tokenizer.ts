/** Loads a model's tokenizer: from a folder, a URL, the Hugging Face hub, or wherever the caller says. */
import type { Tokenizer, TokenizerFiles } from '@anneal/tokenizer';
import { TinkerError } from './core/errors.ts';
import { readEnvironment } from './core/options.ts';

/** Where a tokenizer's files come from. */
export interface TokenizerOptions {
  /**
   * Instead of what the server names: a hub repository (`Qwen/Qwen3-8B`), a folder (absolute, or beginning with `.`), or
   * an `http`, `https` or `file` URL below which the files lie.
   */
  tokenizerId?: string;
  /** Gives the files' contents, for example from a bundle or a database. Told the repository, folder or URL. */
  load?: (tokenizerId: string) => TokenizerFiles | Promise<TokenizerFiles>;
  /** Base URL of a hub or a mirror of it. Default: `HF_ENDPOINT`, else `https://huggingface.co`. */
  hubUrl?: string;
  /** Branch, tag or commit of a hub repository. Default: `main`. */
  revision?: string;
  /** For gated repositories; sent to the hub only. Default: `HF_TOKEN`. */
  hubToken?: string;
  /** Ends the wait. */
  signal?: AbortSignal;
}

/** Text of a file, or nothing where there is no such file. */
type ReadFile = (file: string) => Promise<string | undefined>;

const HUB_URL = 'https://huggingface.co';
const FOLDER = /^(\/|\.{1,2}[\\/]|[A-Za-z]:[\\/]|file:)/;
const ADVICE = 'pass tokenizerId (a hub repository, a folder, or a URL) or load';

/**
 * The repository with a model's tokenizer: variants such as `org/model:tag` and `org/model/variant` share the plain
 * model's.
 */
export function tokenizerRepository(modelName: string): string {
  const [plain = modelName] = modelName.split(':');
  return plain.split('/').slice(0, 2).join('/');
}

/** The file system, where the runtime has one. Not imported, so that bundles for browsers need none. */
function fileSystem(): typeof import('node:fs/promises') | undefined {
  type Runtime = { getBuiltinModule?: (id: string) => typeof import('node:fs/promises') };
  return (globalThis as { process?: Runtime }).process?.getBuiltinModule?.('fs/promises');
}

function readFrom(folder: string, signal: AbortSignal | undefined): ReadFile {
  const fs = fileSystem();
  if (!fs)
    throw new TinkerError(`the tokenizer lies in folder ${folder}, which cannot be read here: ${ADVICE}`);
  return async (file) => {
    const path = `${folder}/${file}`;
    try {
      return await fs.readFile(path.startsWith('file:') ? new URL(path) : path, { encoding: 'utf8', signal });
    } catch (error) {
      signal?.throwIfAborted();
      if ((error as { code?: string }).code === 'ENOENT') return undefined;
      throw new TinkerError(`${path}: ${(error as Error).message}`, { cause: error });
    }
  };
}

function fetchFrom(
  fetch: typeof globalThis.fetch,
  base: string,
  headers: Record<string, string>,
  signal: AbortSignal | undefined,
): ReadFile {
  return async (file) => {
    const url = `${base}/${file}`;
    try {
      const response = await fetch(url, { headers, signal });
      const text = await response.text();
      if (response.ok) return text;
      if (response.status === 404) return undefined;
      // The hub says 401 both for gated repositories and for those that do not exist.
      throw new TinkerError(
        `${url}: ${response.status}; for a gated repository pass hubToken, else ${ADVICE}`,
      );
    } catch (error) {
      signal?.throwIfAborted();
      if (error instanceof TinkerError) throw error;
      throw new TinkerError(`${url}: no answer; ${ADVICE}`, { cause: error });
    }
  };
}

function readerOf(fetch: typeof globalThis.fetch, id: string, options: TokenizerOptions): [string, ReadFile] {
  const base = id.replace(/[\\/]+$/, '');
  if (FOLDER.test(id)) return [base, readFrom(base, options.signal)];
  if (/^https?:/.test(id)) return [base, fetchFrom(fetch, base, {}, options.signal)];
  const hub = (options.hubUrl ?? readEnvironment('HF_ENDPOINT') ?? HUB_URL).replace(/\/+$/, '');
  const token = options.hubToken ?? readEnvironment('HF_TOKEN');
  const url = `${hub}/${tokenizerRepository(id)}/resolve/${options.revision ?? 'main'}`;
  return [url, fetchFrom(fetch, url, token ? { Authorization: `Bearer ${token}` } : {}, options.signal)];
}

async function readFiles(place: string, read: ReadFile): Promise<TokenizerFiles> {
  const json = async (file: string): Promise<object | undefined> => {
    const text = await read(file);
    try {
      return text === undefined ? undefined : JSON.parse(text);
    } catch (error) {
      throw new TinkerError(`${place}/${file} is not JSON: ${(error as Error).message}`, { cause: error });
    }
  };
  const [tokenizer, special, config, template] = await Promise.all([
    json('tokenizer.json'),
    json('special_tokens_map.json'),
    json('tokenizer_config.json'),
    read('chat_template.jinja'),
  ]);
  if (!tokenizer) throw new TinkerError(`${place} has no tokenizer.json: ${ADVICE}`);
  return {
    tokenizer,
    config: { ...special, ...config },
    ...(template !== undefined && { chatTemplates: { default: template } }),
  };
}

/**
 * The tokenizer of a model.
 *
 * @param modelName what the server names: a hub repository, or the folder from which it serves the model
 * @throws TinkerError when its files cannot be had; TokenizerError when they are malformed.
 */
export async function loadTokenizer(
  modelName: string | undefined,
  fetch: typeof globalThis.fetch,
  options: TokenizerOptions = {},
): Promise<Tokenizer> {
  options.signal?.throwIfAborted();
  const id = options.tokenizerId ?? modelName;
  if (!id) throw new TinkerError(`the server does not say which tokenizer the model has: ${ADVICE}`);
  const files = options.load
    ? await options.load(nameOf(id))
    : await readFiles(...readerOf(fetch, id, options));
  // Fetched when it is needed: most of a program's size in a browser, and programs without text do without it.
  const { Tokenizer } = await import('@anneal/tokenizer');
  return new Tokenizer(files);
}

function nameOf(id: string): string {
  return FOLDER.test(id) || /^https?:/.test(id) ? id : tokenizerRepository(id);
}

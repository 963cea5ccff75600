/** Loads a model's tokenizer: from the Hugging Face hub, or from wherever the caller says. */
import type { Tokenizer, TokenizerFiles } from '@anneal/tokenizer';
import { TinkerError } from './core/errors.ts';

/** Where a tokenizer's files come from. */
export interface TokenizerOptions {
  /** Gives the files' contents, for example from a disk, a bundle or a mirror. */
  load?: (tokenizerId: string) => TokenizerFiles | Promise<TokenizerFiles>;
  /** Base URL of a hub or a mirror of it. Default: `https://huggingface.co`. */
  hubUrl?: string;
  /** Branch, tag or commit. Default: `main`. */
  revision?: string;
  /** For gated repositories. */
  hubToken?: string;
  /** Instead of the model's own tokenizer. */
  tokenizerId?: string;
}

const HUB_URL = 'https://huggingface.co';

/**
 * The repository with a model's tokenizer: variants such as `org/model:tag` and `org/model/variant` share the plain
 * model's.
 */
export function tokenizerRepository(modelName: string): string {
  const [plain = modelName] = modelName.split(':');
  return plain.split('/').slice(0, 2).join('/');
}

async function fetchFile(
  fetch: typeof globalThis.fetch,
  url: string,
  token: string | undefined,
): Promise<Response | undefined> {
  const response = await fetch(url, { headers: token ? { Authorization: `Bearer ${token}` } : {} });
  if (response.ok) return response;
  await response.arrayBuffer();
  if (response.status === 404) return undefined;
  throw new TinkerError(`${url}: ${response.status}; pass hubToken for a gated model, or load`);
}

async function fetchFromHub(
  fetch: typeof globalThis.fetch,
  repository: string,
  { hubUrl = HUB_URL, revision = 'main', hubToken }: TokenizerOptions,
): Promise<TokenizerFiles> {
  const base = `${hubUrl.replace(/\/+$/, '')}/${repository}/resolve/${revision}`;
  const get = (file: string) => fetchFile(fetch, `${base}/${file}`, hubToken);
  const [tokenizer, config, template] = await Promise.all([
    get('tokenizer.json'),
    get('tokenizer_config.json'),
    get('chat_template.jinja'),
  ]);
  if (!tokenizer) throw new TinkerError(`${base} has no tokenizer.json: pass tokenizerId or load`);
  return {
    tokenizer: await tokenizer.json(),
    ...(config && { config: await config.json() }),
    ...(template && { chatTemplates: { default: await template.text() } }),
  };
}

/**
 * The tokenizer of a model.
 *
 * @throws TinkerError when its files cannot be had; TokenizerError when they are malformed.
 */
export async function loadTokenizer(
  modelName: string | undefined,
  fetch: typeof globalThis.fetch,
  options: TokenizerOptions = {},
): Promise<Tokenizer> {
  const id = options.tokenizerId ?? modelName;
  if (!id) throw new TinkerError('the server does not say which tokenizer the model has: pass tokenizerId');
  const repository = tokenizerRepository(id);
  // Fetched when it is needed: most of a program's size in a browser, and programs without text do without it.
  const { Tokenizer } = await import('@anneal/tokenizer');
  const files = options.load
    ? await options.load(repository)
    : await fetchFromHub(fetch, repository, options);
  return new Tokenizer(files);
}

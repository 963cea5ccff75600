/** Where a tokenizer's files are looked for, and what is said when they are not there. */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { afterEach, expect, test, vi } from 'vitest';
import { loadTokenizer, type TokenizerOptions } from '../src/index.ts';

const folderUrl = new URL('../../tokenizer/fixtures/qwen3', import.meta.url);
const folder = fileURLToPath(folderUrl);
const [probe] = JSON.parse(readFileSync(`${folder}/tokenizer_cases.json`, 'utf8')).rows as {
  text: string;
  ids: number[];
}[];

/** A fetch that has the files of the fixture below `base`, and tells what it was asked. */
function hub(base: string) {
  const requests: { url: string; authorization: string | null }[] = [];
  const fetch = async (url: string, init: RequestInit = {}) => {
    init.signal?.throwIfAborted();
    requests.push({ url, authorization: new Headers(init.headers).get('authorization') });
    try {
      if (!url.startsWith(`${base}/`)) return new Response('no such repository', { status: 401 });
      return new Response(readFileSync(`${folder}/${url.slice(base.length + 1)}`, 'utf8'));
    } catch {
      return new Response('', { status: 404 });
    }
  };
  return { requests, fetch: fetch as typeof globalThis.fetch };
}

const offline = (async () => {
  throw new TypeError('fetch failed');
}) as typeof globalThis.fetch;

async function encodes(id: string, fetch: typeof globalThis.fetch, options?: TokenizerOptions) {
  const tokenizer = await loadTokenizer(id, fetch, options);
  expect(tokenizer.encode(probe!.text, { addSpecialTokens: false })).toEqual(probe!.ids);
  expect(tokenizer.applyChatTemplate([{ role: 'user', content: 'Hi' }])).toContain('Hi');
}

afterEach(() => {
  vi.unstubAllEnvs();
  vi.unstubAllGlobals();
});

test('a model served from a folder brings the folder as its tokenizer', async () => {
  await encodes(folder, offline);
  await encodes('served/name', offline, { tokenizerId: folderUrl.href });
});

test('a URL, with or without a slash at its end', async () => {
  const { fetch, requests } = hub('https://files.example/qwen');
  await encodes('https://files.example/qwen/', fetch);
  await encodes('served/name', fetch, { tokenizerId: 'https://files.example/qwen', hubToken: 'secret' });
  expect(requests.every(({ authorization }) => authorization === null)).toBe(true);
});

test('a hub repository; variants of a model share its tokenizer', async () => {
  const { fetch, requests } = hub('https://huggingface.co/org/model/resolve/main');
  await encodes('org/model:fast', fetch);
  await encodes('org/model/variant', fetch, { hubToken: 'hf_x' });
  expect(requests.at(-1)?.authorization).toBe('Bearer hf_x');
});

test('a mirror, a revision and a token, as other tools of the hub take them', async () => {
  vi.stubEnv('HF_ENDPOINT', 'https://mirror.example/');
  vi.stubEnv('HF_TOKEN', 'hf_env');
  const { fetch, requests } = hub('https://mirror.example/org/model/resolve/v2');
  await encodes('org/model', fetch, { revision: 'v2' });
  expect(requests.at(-1)?.authorization).toBe('Bearer hf_env');
});

test('files that the caller brings', async () => {
  const load = vi.fn(() => ({ tokenizer: JSON.parse(readFileSync(`${folder}/tokenizer.json`, 'utf8')) }));
  await loadTokenizer('org/model:tag', offline, { load });
  expect(load).toHaveBeenCalledWith('org/model');
});

test.each([
  ['org/model', offline, /huggingface\.co\/org\/model.*no answer; pass tokenizerId/],
  [
    'org/model',
    hub('https://elsewhere').fetch,
    /401; for a gated repository pass hubToken, else pass tokenizerId/,
  ],
  ['/no/such/folder', offline, /^\/no\/such\/folder has no tokenizer\.json: pass tokenizerId/],
  [fileURLToPath(import.meta.url), offline, /tokenizer\.test\.ts.*ENOTDIR/],
  [undefined, offline, /does not say which tokenizer.*pass tokenizerId/],
])('%s: what to do is said', async (id, fetch, message) => {
  await expect(loadTokenizer(id, fetch)).rejects.toThrow(message);
  await expect(loadTokenizer(id, fetch)).rejects.toMatchObject({ name: 'TinkerError' });
});

test('a folder where there is no file system', async () => {
  vi.stubGlobal('process', undefined);
  await expect(loadTokenizer(folder, offline)).rejects.toThrow('cannot be read here: pass tokenizerId');
});

test('a signal ends the wait', async () => {
  const controller = new AbortController();
  const hanging = ((_url: string, { signal }: RequestInit) =>
    new Promise((_resolve, reject) =>
      signal?.addEventListener('abort', () => reject(signal.reason)),
    )) as typeof globalThis.fetch;
  const loading = loadTokenizer('org/model', hanging, { signal: controller.signal });
  controller.abort(new Error('enough'));
  await expect(loading).rejects.toThrow('enough');
});

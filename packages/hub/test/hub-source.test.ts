import { createHash } from 'node:crypto';
import { existsSync, lstatSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { ModelNotFoundError, type ProgressEvent, type ResolveOptions, resolveModel } from '../src/index.ts';
import { COMMIT, type StandInHub, startStandInHub } from './stand-in-hub.ts';

let hub: StandInHub;
let scratch: string;
let events: ProgressEvent[];

beforeEach(async () => {
  hub = await startStandInHub();
  scratch = mkdtempSync(path.join(tmpdir(), 'hub-'));
  events = [];
});
afterEach(async () => {
  await hub.close();
  rmSync(scratch, { recursive: true });
});

const text = (value: string) => new TextEncoder().encode(value);
const weights = (seed: number, size = 300_000) =>
  Uint8Array.from({ length: size }, (_, i) => (i * seed) >> 3);

const SMALL_FILES = {
  'config.json': text('{"model_type":"llama"}'),
  'tokenizer.json': text('{}'),
  'tokenizer_config.json': text('{ }'),
  'chat_template.jinja': text('{{ messages }}'),
  'additional_chat_templates/rag.jinja': text('{{ documents }}'),
};

function options(extra: Record<string, string> = {}): ResolveOptions {
  return {
    cacheDir: path.join(scratch, 'anneal'),
    env: { PATH: process.env.PATH, HF_ENDPOINT: hub.url, HF_HOME: path.join(scratch, 'hf'), ...extra },
    onProgress: (event) => events.push(event),
    retryDelayMs: 1,
  };
}

const entryFolder = () => path.join(scratch, 'hf/hub/models--acme--tiny');

async function failure(promise: Promise<unknown>): Promise<ModelNotFoundError> {
  const error = await promise.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (error instanceof ModelNotFoundError) return error;
  throw new Error(`expected a ModelNotFoundError, not ${error}`);
}

test('downloads what serving needs into the cache layout of huggingface_hub', async () => {
  const content = weights(7);
  hub.models['acme/tiny'] = {
    files: {
      ...SMALL_FILES,
      'model.safetensors': content,
      'README.md': text('# Tiny'),
      'pytorch_model.bin': weights(3),
      'onnx/model.onnx': weights(3),
    },
  };
  const model = await resolveModel('acme/tiny', options());
  expect(model).toEqual({
    name: 'acme/tiny',
    source: 'hub',
    folder: path.join(entryFolder(), 'snapshots', COMMIT),
    revision: COMMIT,
  });
  const files = readdirSync(model.folder, { recursive: true }).filter(
    (file) => file !== 'additional_chat_templates',
  );
  expect(files.sort()).toEqual([...Object.keys(SMALL_FILES), 'model.safetensors'].sort());
  expect(readFileSync(path.join(model.folder, 'model.safetensors')).equals(content)).toBe(true);
  expect(readFileSync(path.join(entryFolder(), 'refs/main'), 'utf8')).toBe(COMMIT);
  const link = path.join(model.folder, 'additional_chat_templates/rag.jinja');
  expect(lstatSync(link).isSymbolicLink()).toBe(true);
  const sha1 = createHash('sha1').update(`blob 15\0{{ documents }}`).digest('hex');
  expect(readlinkSync(link)).toBe(`../../../blobs/${sha1}`);
  const sha256 = createHash('sha256').update(content).digest('hex');
  expect(readlinkSync(path.join(model.folder, 'model.safetensors'))).toBe(`../../blobs/${sha256}`);
  const last = events.filter((event) => event.type === 'progress').at(-1);
  expect(last).toMatchObject({
    file: 'model.safetensors',
    receivedBytes: 300_000,
    totalBytes: 300_000,
    source: 'hub',
  });
});

test('a complete copy in the cache needs no network', async () => {
  hub.models['acme/tiny'] = { files: { ...SMALL_FILES, 'model.safetensors': weights(7) } };
  const first = await resolveModel('acme/tiny', options());
  const asked = hub.requests.length;
  expect(await resolveModel('acme/tiny', options())).toEqual(first);
  expect(await resolveModel('acme/tiny', { ...options(), offline: true })).toEqual(first);
  expect(await resolveModel('acme/tiny', { ...options(), revision: COMMIT })).toEqual(first);
  expect(hub.requests.length).toBe(asked);
});

test('downloads the shards that the index names', async () => {
  const map = {
    a: 'model-00001-of-00002.safetensors',
    b: 'model-00002-of-00002.safetensors',
    c: 'model-00001-of-00002.safetensors',
  };
  hub.models['acme/tiny'] = {
    files: {
      ...SMALL_FILES,
      'model.safetensors.index.json': text(JSON.stringify({ weight_map: map })),
      'model-00001-of-00002.safetensors': weights(5),
      'model-00002-of-00002.safetensors': weights(6),
      'consolidated.safetensors': weights(5),
    },
  };
  const { folder } = await resolveModel('acme/tiny', options());
  const found = readdirSync(folder).filter((file) => file.endsWith('.safetensors'));
  expect(found.sort()).toEqual(['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors']);
  rmSync(path.join(folder, 'model-00002-of-00002.safetensors'));
  hub.requests.length = 0;
  await resolveModel('acme/tiny', options());
  expect(existsSync(path.join(folder, 'model-00002-of-00002.safetensors'))).toBe(true);
  expect(hub.requests.filter((line) => line.startsWith('download'))).toEqual([]);
});

test('takes a broken download up where it broke off', async () => {
  hub.models['acme/tiny'] = { files: { ...SMALL_FILES, 'model.safetensors': weights(7) } };
  hub.cutAfter = [100_000, 50_000];
  const { folder } = await resolveModel('acme/tiny', options());
  const downloads = hub.requests.filter((line) => line.startsWith('download'));
  expect(downloads).toHaveLength(3);
  expect(downloads[0]).not.toContain('bytes=');
  expect(downloads.slice(1).every((line) => /bytes=[1-9]\d*-$/.test(line))).toBe(true);
  expect(readFileSync(path.join(folder, 'model.safetensors')).equals(weights(7))).toBe(true);
});

test('a later call continues what an earlier one left', async () => {
  hub.models['acme/tiny'] = { files: { ...SMALL_FILES, 'model.safetensors': weights(7) } };
  hub.cutAfter = [100_000, 0, 0, 0, 0, 0];
  const error = await failure(resolveModel('acme/tiny', options()));
  expect(error.message).toMatch(/not reachable/);
  const blobs = readdirSync(path.join(entryFolder(), 'blobs'));
  expect(blobs.some((file) => file.endsWith('.incomplete'))).toBe(true);
  hub.requests.length = 0;
  hub.cutAfter = [];
  const { folder } = await resolveModel('acme/tiny', options());
  expect(hub.requests.filter((line) => line.startsWith('download'))[0]).toMatch(/bytes=[1-9]\d*-$/);
  expect(readFileSync(path.join(folder, 'model.safetensors')).equals(weights(7))).toBe(true);
  expect(readdirSync(path.join(entryFolder(), 'blobs')).some((file) => file.endsWith('.incomplete'))).toBe(
    false,
  );
});

test('a server without ranges is asked for the whole file again', async () => {
  hub.models['acme/tiny'] = { files: { ...SMALL_FILES, 'model.safetensors': weights(7) } };
  hub.cutAfter = [100_000];
  hub.ignoreRange = true;
  const { folder } = await resolveModel('acme/tiny', options());
  expect(readFileSync(path.join(folder, 'model.safetensors')).equals(weights(7))).toBe(true);
});

test.each([
  ['config.json', /config\.json: git-sha1 of the received file is [0-9a-f]{40}, but the hub lists/],
  ['model.safetensors', /model\.safetensors: sha256 of the received file is [0-9a-f]{64}, but the hub lists/],
])('other bytes than those listed for %s are refused and not kept', async (file, message) => {
  hub.models['acme/tiny'] = { files: { ...SMALL_FILES, 'model.safetensors': weights(7) } };
  hub.corrupt = file;
  const error = await failure(resolveModel('acme/tiny', options()));
  expect(error.message).toMatch(message);
  expect(readdirSync(path.join(entryFolder(), 'blobs')).filter((blob) => /incomplete/.test(blob))).toEqual(
    [],
  );
  expect(existsSync(path.join(entryFolder(), 'snapshots', COMMIT, file))).toBe(false);
});

test('a gated model says to accept the terms and set a token, and loads with one', async () => {
  hub.models['acme/tiny'] = {
    files: { ...SMALL_FILES, 'model.safetensors': weights(7) },
    gated: 'hf_secret',
  };
  const error = await failure(resolveModel('acme/tiny', options()));
  expect(error.message).toContain('gated');
  expect(error.message).toContain('HF_TOKEN');
  const { source } = await resolveModel('acme/tiny', options({ HF_TOKEN: 'hf_secret' }));
  expect(source).toBe('hub');
  expect(hub.tokensAtDownloadHost).toEqual([undefined]);
});

test('an unknown model lists every source asked', async () => {
  const error = await failure(resolveModel('acme/absent', options()));
  expect(error.attempts.map((attempt) => attempt.source)).toEqual(['folder', 'cache', 'hub', 'pypi']);
  expect(error.message).toContain(`${hub.url}/acme/absent: no such model, or it is private`);
  expect(error.message).toContain('Check the spelling');
});

test('a repository without safetensors says so', async () => {
  hub.models['acme/tiny'] = { files: { ...SMALL_FILES, 'pytorch_model.bin': weights(7) } };
  const error = await failure(resolveModel('acme/tiny', options()));
  expect(error.message).toContain('the repository has no model.safetensors');
});

test('HF_HUB_OFFLINE asks the cache alone', async () => {
  hub.models['acme/tiny'] = { files: { ...SMALL_FILES, 'model.safetensors': weights(7) } };
  const error = await failure(resolveModel('acme/tiny', options({ HF_HUB_OFFLINE: '1' })));
  expect(error.message).toContain("only the hub's cache was searched: it is not there");
  expect(hub.requests).toEqual([]);
});

test('a hub that cannot be reached is passed over with a message', async () => {
  const { url } = hub;
  await hub.close();
  const error = await failure(resolveModel('acme/tiny', options()));
  expect(error.message).toContain(`${url}/acme/tiny: not reachable (ECONNREFUSED)`);
  const messages = events.flatMap((event) => (event.type === 'message' ? [event.message] : []));
  expect(messages.at(-1)).toContain('ECONNREFUSED');
});

test('two calls at once download each file once', async () => {
  hub.models['acme/tiny'] = { files: { ...SMALL_FILES, 'model.safetensors': weights(7) } };
  const [first, second] = await Promise.all([
    resolveModel('acme/tiny', options()),
    resolveModel('acme/tiny', options()),
  ]);
  expect(second).toEqual(first);
  expect(hub.requests.filter((line) => line.startsWith('download'))).toHaveLength(1);
});

test('names that climb out of the cache are not names', async () => {
  const error = await failure(resolveModel('../../etc', options()));
  expect(error.attempts.map((attempt) => attempt.source)).toEqual(['folder']);
  expect(hub.requests).toEqual([]);
});

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { HubPushError, type ProgressEvent, type PushRequest, pushFiles } from '../src/index.ts';
import { type StandInUploads, startStandInUploads, TOKEN, UPLOADED } from './stand-in-uploads.ts';

let hub: StandInUploads;
let folder: string;
const events: ProgressEvent[] = [];

beforeEach(async () => {
  hub = await startStandInUploads();
  folder = mkdtempSync(path.join(tmpdir(), 'push-'));
  events.length = 0;
});
afterEach(async () => {
  await hub.close();
  rmSync(folder, { recursive: true });
});

function write(name: string, content: Uint8Array | string): string {
  const file = path.join(folder, name);
  writeFileSync(file, content);
  return file;
}

const weights = Uint8Array.from({ length: 200_000 }, (_, at) => (at * 7) >> 2);

function request(more: Partial<PushRequest> = {}): PushRequest {
  return {
    repository: 'acme/tiny-lora',
    files: {
      'adapter_config.json': write('adapter_config.json', '{"r":4}'),
      'adapter_model.safetensors': write('adapter_model.safetensors', weights),
    },
    card: '# Tiny\n',
    message: 'First',
    isPrivate: false,
    onProgress: (event) => events.push(event),
    env: { HF_ENDPOINT: hub.url, HF_TOKEN: TOKEN, HF_HOME: folder },
    ...more,
  };
}

const refusal = (more: Partial<PushRequest>) =>
  pushFiles(request(more)).then(
    () => expect.unreachable('it was uploaded'),
    (error: unknown) => {
      expect(error).toBeInstanceOf(HubPushError);
      return (error as Error).message;
    },
  );

test('files and a card arrive as they are, in one commit of a new repository', async () => {
  const names = ['adapter_config.json', 'adapter_model.safetensors', 'README.md'];
  expect(await pushFiles(request({ isPrivate: true }))).toEqual({
    repository: 'acme/tiny-lora',
    url: `${hub.url}/acme/tiny-lora`,
    commit: UPLOADED,
    files: names,
  });
  const { files, commits, private: isPrivate } = hub.repositories['acme/tiny-lora']!;
  expect([isPrivate, commits, Object.keys(files).sort()]).toEqual([true, ['First'], names.sort()]);
  expect(files['adapter_model.safetensors']!.equals(weights)).toBe(true);
  expect(String(files['adapter_config.json'])).toBe('{"r":4}');
  expect(String(files['README.md'])).toBe('# Tiny\n');
  expect(events.at(-1)).toMatchObject({
    step: 'upload',
    file: 'adapter_model.safetensors',
    receivedBytes: 200_000,
    totalBytes: 200_000,
  });
});

test('a second upload leaves the card alone, which its owner may have written anew', async () => {
  await pushFiles(request());
  const repository = hub.repositories['acme/tiny-lora']!;
  repository.files['README.md'] = Buffer.from('# Mine\n');
  const changed = { 'adapter_config.json': write('changed.json', '{"r":8}') };
  const { files } = await pushFiles(request({ files: changed, message: 'Second' }));
  expect(files).toEqual(['adapter_config.json']);
  expect(String(repository.files['README.md'])).toBe('# Mine\n');
  expect(String(repository.files['adapter_config.json'])).toBe('{"r":8}');
  expect(repository.commits).toEqual(['First', 'Second']);
});

test('what would be seen by more people than asked for is not uploaded', async () => {
  await pushFiles(request());
  expect(await refusal({ isPrivate: true })).toMatch(/there already and public/);
  expect(hub.repositories['acme/tiny-lora']!.commits).toHaveLength(1);
});

test('names, tokens and networks that will not do are told with what to do', async () => {
  const env = request().env!;
  expect(await refusal({ repository: 'tiny' })).toMatch(/give OWNER\/NAME/);
  expect(await refusal({ env: { ...env, HF_TOKEN: '' } })).toMatch(/set HF_TOKEN/);
  expect(await refusal({ env: { ...env, HF_TOKEN: 'secret' } })).toMatch(/^HF_TOKEN: .*hf_/);
  expect(await refusal({ env: { ...env, HF_TOKEN: 'hf_other' } })).toMatch(/answered 401 .*may write/);
  expect(await refusal({ env: { ...env, HF_HUB_OFFLINE: '1' } })).toMatch(/HF_HUB_OFFLINE/);
  expect(await refusal({ env: { ...env, HF_ENDPOINT: 'http://127.0.0.1:9' } })).toMatch(/not reachable/);
  expect(hub.repositories).toEqual({});
});

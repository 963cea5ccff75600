import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { parse } from 'yaml';
import { type StandInUploads, startStandInUploads, TOKEN } from '../../hub/test/stand-in-uploads.ts';
import { mergeAdapter } from '../src/merge/merge-adapter.ts';
import { anneal, TINY_MODEL } from './anneal.ts';

const ADAPTER = fileURLToPath(new URL('../../engine/fixtures/arch/llama3/peft_r4', import.meta.url));

let hub: StandInUploads;
const folder = mkdtempSync(join(tmpdir(), 'anneal-push-test-'));
beforeAll(async () => {
  hub = await startStandInUploads();
});
afterAll(async () => {
  await hub.close();
  rmSync(folder, { recursive: true });
});

const push = (...args: string[]) =>
  anneal(['checkpoint', 'push-hf', ADAPTER, ...args], {
    env: { HF_ENDPOINT: hub.url, HF_TOKEN: TOKEN, HF_HOME: folder },
  });

/** What the hub reads of a model card. */
const headOf = (card: Buffer | undefined) => parse(String(card).split('---\n')[1]!);

test('an adapter is uploaded as PEFT has it, with a card that names its base', async () => {
  const pushed = await push('acme/lora', '--base-model', 'acme/base', '--private', '--json');
  expect([pushed.status, pushed.stderr]).toEqual([0, expect.stringContaining('Uploading adapter_model')]);
  expect(JSON.parse(pushed.stdout)).toMatchObject({ repository: 'acme/lora', url: `${hub.url}/acme/lora` });
  const { files, private: isPrivate } = hub.repositories['acme/lora']!;
  expect(isPrivate).toBe(true);
  expect(
    files['adapter_model.safetensors']!.equals(readFileSync(join(ADAPTER, 'adapter_model.safetensors'))),
  ).toBe(true);
  const config = JSON.parse(String(files['adapter_config.json']));
  expect(config).toEqual({
    ...JSON.parse(readFileSync(join(ADAPTER, 'adapter_config.json'), 'utf8')),
    base_model_name_or_path: 'acme/base',
  });
  expect(headOf(files['README.md'])).toMatchObject({
    base_model: 'acme/base',
    base_model_relation: 'adapter',
    library_name: 'peft',
  });
}, 120_000);

test('with --merged, a whole model is uploaded', async () => {
  const flags = ['--merged', '--model', TINY_MODEL, '--base-model', 'acme/base', '--json'];
  const pushed = await push('acme/merged', ...flags);
  expect(pushed.status).toBe(0);
  const { files } = hub.repositories['acme/merged']!;
  expect(Object.keys(files)).toEqual(expect.arrayContaining(['config.json', 'tokenizer.json', 'README.md']));
  const merged = join(folder, 'merged');
  await mergeAdapter(ADAPTER, TINY_MODEL, merged);
  expect(files['model.safetensors']!.equals(readFileSync(join(merged, 'model.safetensors')))).toBe(true);
  expect(headOf(files['README.md'])).toMatchObject({ base_model: 'acme/base', library_name: 'transformers' });
}, 120_000);

test('what cannot be uploaded is one line, and nothing is made on the hub', async () => {
  const unnamed = await push('acme/other');
  expect(unnamed).toMatchObject({ status: 2, stdout: '' });
  expect(unnamed.stderr).toMatch(
    /^anneal: error: --base-model: the adapter names no base model; give OWNER\/NAME\n$/,
  );
  const local = await push('acme/other', '--base-model', 'tiny');
  expect(local.stderr).toMatch(/"tiny" is no name on the hub/);
  const model = await push('acme/other', '--base-model', 'acme/base', '--model', TINY_MODEL);
  expect(model).toMatchObject({ status: 2 });
  const name = await push('other', '--base-model', 'acme/base');
  expect(name).toMatchObject({ status: 1 });
  expect(name.stderr).toMatch(/give OWNER\/NAME/);
  expect(hub.repositories).not.toHaveProperty('acme/other');
}, 120_000);

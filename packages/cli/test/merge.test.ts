import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { inspectModel } from '@anneal/hub';
import { openSafetensors } from '@anneal/safetensors';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { mergeAdapter } from '../src/merge/merge-adapter.ts';
import { TINY_MODEL } from './anneal.ts';

// What merged weights are is compared with torch in tools/interop/interop_merge.py.
const ADAPTER = fileURLToPath(new URL('../../engine/fixtures/arch/llama3/peft_r4', import.meta.url));
const OTHER_MODEL = fileURLToPath(new URL('../../engine/fixtures/arch/qwen2/model', import.meta.url));

let folder: string;
let output: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'anneal-merge-test-'));
  output = join(folder, 'merged');
});
afterEach(() => rmSync(folder, { recursive: true }));

test('a merged folder is a checkpoint with the files of its base, in which adapted weights alone differ', async () => {
  const merged = await mergeAdapter(ADAPTER, TINY_MODEL, output);
  expect(merged).toMatchObject({ folder: output, merged: 3 * 7, untied: false });
  expect(readdirSync(output)).toEqual(readdirSync(TINY_MODEL));
  expect((await inspectModel(output)).parameters).toBe((await inspectModel(TINY_MODEL)).parameters);
  const [before, after] = [openSafetensors(TINY_MODEL), openSafetensors(output)];
  for (const { name, dtype } of before.tensors) {
    expect(after.info(name).dtype).toBe(dtype);
    const isSame = Buffer.compare(before.readSync(name), after.readSync(name)) === 0;
    expect([name, isSame]).toEqual([name, !/_proj/.test(name)]);
  }
  before.close();
  after.close();
});

test('what cannot be merged is refused, and nothing is left behind', async () => {
  await expect(mergeAdapter(ADAPTER, OTHER_MODEL, output)).rejects.toThrow(/is it for another\? \(--model\)/);
  await expect(mergeAdapter(TINY_MODEL, TINY_MODEL, output)).rejects.toThrow(
    /no LoRA adapter.*adapter_config/,
  );
  expect(readdirSync(folder)).toEqual([]);
  writeFileSync(output, '');
  await expect(mergeAdapter(ADAPTER, TINY_MODEL, output)).rejects.toThrow(/exists already/);
});

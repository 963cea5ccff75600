import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { openSafetensors } from '../packages/safetensors/src/index.ts';
import { makeRandomCheckpoint, tensorsOf } from './make-random-checkpoint.ts';

const ARCH = path.join(import.meta.dirname, '../packages/engine/fixtures/arch');
const model = (family: string) => path.join(ARCH, family, 'model');
const scratch = mkdtempSync(path.join(tmpdir(), 'anneal-random-'));
afterAll(() => rmSync(scratch, { recursive: true }));

const byName = (a: { name: string }, b: { name: string }) => (a.name < b.name ? -1 : 1);

test.each(['llama3', 'qwen2', 'qwen3', 'qwen3_moe', 'gemma3', 'olmo2'])(
  'names and shapes are those of a checkpoint that transformers wrote: %s',
  (family) => {
    using reader = openSafetensors(model(family));
    const json: unknown = JSON.parse(readFileSync(path.join(model(family), 'config.json'), 'utf8'));
    const stored = reader.tensors.map(({ name, shape }) => ({ name, shape: [...shape] }));
    expect(tensorsOf(json).sort(byName)).toEqual(stored.sort(byName));
  },
);

test('weights are finite, differ, and lie in files of the size that is asked for', async () => {
  const config = path.join(model('qwen3'), 'config.json');
  await makeRandomCheckpoint(config, scratch, 60_000);
  using reader = openSafetensors(scratch);
  expect(reader.files.length).toBeGreaterThan(3);
  const seen = new Set<number>();
  for (const { name, dtype } of reader.tensors) {
    expect(dtype).toBe('BF16');
    const values = reader.readFloat32Sync(name);
    if (name.endsWith('norm.weight')) expect(new Set(values)).toEqual(new Set([1]));
    else for (const value of values) seen.add(value);
  }
  const magnitudes = [...seen].map(Math.abs);
  expect(seen.size).toBe(512);
  expect([Math.min(...magnitudes), Math.max(...magnitudes)]).toEqual([2 ** -7, 2 ** -5 - 2 ** -13]);
});

import { cpSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { listFetchedModels } from './index.ts';

const LLAMA = path.join(import.meta.dirname, '../../engine/fixtures/arch/llama3/model');
const scratch = mkdtempSync(path.join(tmpdir(), 'list-models-'));
afterAll(() => rmSync(scratch, { recursive: true }));

const env = { ANNEAL_CACHE_DIR: path.join(scratch, 'ours'), HF_HUB_CACHE: path.join(scratch, 'hub') };

test('there are none before a cache is there', async () => {
  expect(await listFetchedModels(env)).toEqual([]);
});

test('complete checkpoints of both caches are listed, others passed over', async () => {
  const ours = path.join(env.ANNEAL_CACHE_DIR, 'models', 'org--made', 'package-1-r1');
  const commit = 'ab'.repeat(20);
  const hub = path.join(env.HF_HUB_CACHE, 'models--other--fetched-7B', 'snapshots', commit);
  for (const folder of [ours, hub]) cpSync(LLAMA, folder, { recursive: true });
  cpSync(LLAMA, `${ours}.1234.tmp`, { recursive: true });
  const incomplete = path.join(env.HF_HUB_CACHE, 'models--org--half', 'snapshots', commit);
  cpSync(LLAMA, incomplete, { recursive: true });
  rmSync(path.join(incomplete, 'tokenizer.json'));
  mkdirSync(path.join(env.HF_HUB_CACHE, 'datasets--org--data', 'snapshots', commit), { recursive: true });
  expect(await listFetchedModels(env)).toEqual([
    { name: 'org/made', folder: ours },
    { name: 'other/fetched-7B', folder: hub },
  ]);
});

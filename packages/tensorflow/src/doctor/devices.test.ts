import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { describeCpu, describeGpus, describeMemory } from './devices.ts';

function fakeNvidiaSmi(script: string): NodeJS.ProcessEnv {
  const bin = mkdtempSync(path.join(tmpdir(), 'anneal-smi-'));
  onTestFinished(() => rmSync(bin, { recursive: true }));
  writeFileSync(path.join(bin, 'nvidia-smi'), `#!/bin/sh\n${script}\n`, { mode: 0o755 });
  return { PATH: bin };
}

test('GPUs are listed with their memory in bytes', async () => {
  const env = fakeNvidiaSmi(`echo "NVIDIA H100 80GB HBM3, 550.54.15, 81559, 81008"
echo "NVIDIA A10, 550.54.15, 23028, 22500"`);
  expect(await describeGpus(env)).toEqual([
    {
      name: 'NVIDIA H100 80GB HBM3',
      driver: '550.54.15',
      totalBytes: 81559 * 2 ** 20,
      freeBytes: 81008 * 2 ** 20,
    },
    { name: 'NVIDIA A10', driver: '550.54.15', totalBytes: 23028 * 2 ** 20, freeBytes: 22500 * 2 ** 20 },
  ]);
});

test('without nvidia-smi, or with one that has no driver, there is no GPU', async () => {
  expect(await describeGpus({ PATH: '/nonexistent' })).toEqual([]);
  expect(await describeGpus(fakeNvidiaSmi('echo "NVIDIA-SMI has failed"; exit 9'))).toEqual([]);
});

test('cores and memory stay within what the system reports', async () => {
  const page = Number(execFileSync('getconf', ['PAGE_SIZE'], { encoding: 'utf8' }));
  const pages = Number(execFileSync('getconf', ['_PHYS_PAGES'], { encoding: 'utf8' }));
  const { totalBytes, availableBytes } = describeMemory();
  expect(totalBytes).toBeLessThanOrEqual(page * pages);
  expect(availableBytes).toBeGreaterThan(0);
  expect(availableBytes).toBeLessThanOrEqual(totalBytes);
  expect((await describeCpu()).cores).toBe(Number(execFileSync('nproc', { encoding: 'utf8' })));
});

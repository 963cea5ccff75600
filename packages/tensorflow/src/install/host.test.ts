import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { describeHost, readCpuFlags } from './host.ts';

test('CPU features are read from x86 and Arm listings, and are unknown without one', async () => {
  const folder = mkdtempSync(path.join(tmpdir(), 'anneal-cpuinfo-'));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  const file = path.join(folder, 'cpuinfo');
  writeFileSync(file, 'processor\t: 0\nflags\t\t: fpu avx avx512_bf16\nbugs\t\t: spectre_v1\n');
  expect(await readCpuFlags(file)).toEqual(new Set(['fpu', 'avx', 'avx512_bf16']));
  writeFileSync(file, 'processor\t: 0\nFeatures\t: fp asimd bf16\n');
  expect(await readCpuFlags(file)).toEqual(new Set(['fp', 'asimd', 'bf16']));
  expect(await readCpuFlags(path.join(folder, 'none'))).toBeUndefined();
});

test('the C library version is the one the system reports', async () => {
  const reported = execFileSync('getconf', ['GNU_LIBC_VERSION'], { encoding: 'utf8' }).trim();
  expect(`glibc ${(await describeHost()).glibc}`).toBe(reported);
});

test('CUDA_VISIBLE_DEVICES hides GPUs', async () => {
  expect((await describeHost({ ...process.env, CUDA_VISIBLE_DEVICES: '-1' })).nvidiaGpu).toBe(false);
});

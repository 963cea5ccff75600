import { expect, test } from 'vitest';
import type { Host } from './host.ts';
import { chooseWheel } from './wheel-plan.ts';

const pc: Host = {
  platform: 'linux',
  arch: 'x64',
  glibc: '2.36',
  cpuFlags: new Set(['avx', 'avx2']),
  nvidiaGpu: false,
};

test.each([
  ['a PC without a GPU', pc, 'auto', 'tensorflow-cpu', 'cpu'],
  ['a PC with a GPU', { ...pc, nvidiaGpu: true }, 'auto', 'tensorflow', 'cuda12'],
  ['a PC with a GPU that is to stay unused', { ...pc, nvidiaGpu: true }, 'cpu', 'tensorflow-cpu', 'cpu'],
  ['an Arm server', { ...pc, arch: 'arm64' }, 'auto', 'tensorflow', 'cpu'],
  ['a CPU whose features cannot be read', { ...pc, cpuFlags: undefined }, 'auto', 'tensorflow-cpu', 'cpu'],
] as const)('%s', (_name, host, device, wheel, variant) => {
  const { plan, notes } = chooseWheel(host, device);
  expect(plan).toMatchObject({ package: wheel, variant });
  expect(notes).toEqual([]);
});

test.each([
  ['macOS', { ...pc, platform: 'darwin', arch: 'arm64', glibc: undefined }, /Linux only; this is darwin/],
  ['musl', { ...pc, glibc: undefined }, /musl/],
  ['an old C library', { ...pc, glibc: '2.9' }, /needs GNU libc 2.27 or newer; this system has 2.9/],
  ['an uncommon architecture', { ...pc, arch: 'riscv64' }, /riscv64/],
  ['a CPU without AVX', { ...pc, cpuFlags: new Set(['sse4_2']) }, /AVX/],
] as const)('%s has no wheel, and the note says why', (_name, host, reason) => {
  const { plan, notes } = chooseWheel(host, 'auto');
  expect(plan).toBeUndefined();
  expect(notes).toEqual([expect.stringMatching(reason)]);
});

test('a GPU beside an Arm CPU is not used, and the note says why', () => {
  const { plan, notes } = chooseWheel({ ...pc, arch: 'arm64', nvidiaGpu: true }, 'auto');
  expect(plan?.variant).toBe('cpu');
  expect(notes).toEqual([expect.stringContaining('GPU stays unused')]);
});

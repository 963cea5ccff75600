import { expect, test } from 'vitest';
import type { DoctorReport } from './doctor.ts';
import { formatDoctorReport } from './format.ts';

const report: DoctorReport = {
  backend: {
    kind: 'addon',
    addonPath: '/c/anneal.node',
    tensorflowVersion: '2.21.0',
    gpu: true,
    usesGpu: true,
    notes: [],
  },
  cacheDir: '/c',
  versions: { node: '22.12.0', tensorflow: '2.21.0', tfjs: '4.22.0' },
  cpu: { model: 'Some CPU', cores: 8, features: { avx2: true, amx_bf16: false } },
  memory: { totalBytes: 64e9, availableBytes: 32e9 },
  gpus: [{ name: 'Some GPU', driver: '550.1', totalBytes: 80e9, freeBytes: 79e9 }],
  compiledFunctions: { status: 'ok', detail: 'largest difference from eager 0.0e+0' },
  xla: { status: 'failed', detail: 'first line\nsecond line' },
  bf16: { status: 'unavailable', detail: 'why' },
  matmul: { size: 1024, fp32: 143.4, bf16: 9.87 },
};

test('a report is one aligned table', () => {
  expect(formatDoctorReport(report)).toBe(`\
Backend             Anneal's own addon: compiled functions, fp32 and bf16, on the GPU
Addon               /c/anneal.node
Cache               /c
Versions            Node.js 22.12.0, TensorFlow 2.21.0, tfjs 4.22.0
CPU                 Some CPU, 8 threads (avx2, no amx_bf16)
Memory              64.0 GB, 32.0 GB available
GPU                 Some GPU, 80.0 GB, 79.0 GB free, driver 550.1
Compiled functions  ok: largest difference from eager 0.0e+0
XLA                 FAILED: first line
                    second line
bf16                not available: why
Matrix product      1024×1024×1024: fp32 143 GFLOP/s, bf16 9.9 GFLOP/s
`);
});

test('what is missing is said, and notes follow the backend', () => {
  const wasm: DoctorReport = {
    ...report,
    backend: { kind: 'wasm', gpu: false, usesGpu: false, notes: ['No g++.'] },
    versions: { node: '22.12.0', tfjs: '4.22.0' },
    cpu: { ...report.cpu, features: {} },
    gpus: [],
    matmul: { size: 1024, fp32: 24 },
  };
  const lines = formatDoctorReport(wasm).split('\n');
  expect(lines[0]).toMatch(/^Backend +WebAssembly: eager, fp32, slow, on the CPU$/);
  expect(lines[1]).toMatch(/^ +No g\+\+\.$/);
  expect(lines).toContainEqual(expect.stringMatching(/^Addon +none$/));
  expect(lines).toContainEqual(expect.stringMatching(/^CPU +Some CPU, 8 threads$/));
  expect(lines).toContainEqual(expect.stringMatching(/^GPU +none$/));
  expect(lines).toContainEqual(expect.stringMatching(/fp32 24 GFLOP\/s$/));
});

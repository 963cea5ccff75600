import { expect, test } from 'vitest';
import { doctor, TENSORFLOW_VERSION } from '../src/index.ts';

test('with the addon everything that training needs works', async () => {
  const report = await doctor({ device: 'cpu' });
  expect(report).toMatchObject({
    backend: { kind: 'addon', usesGpu: false, notes: [] },
    versions: { node: process.versions.node, tensorflow: TENSORFLOW_VERSION, tfjs: '4.22.0' },
    compiledFunctions: { status: 'ok' },
    xla: { status: 'ok' },
    bf16: { status: 'ok' },
  });
  expect(report.matmul.fp32).toBeGreaterThan(0);
  expect(report.matmul.bf16).toBeGreaterThan(0);
}, 900_000);

import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { compile, doctor, type Tensor, tf } from '../src/index.ts';
import { type FakeToolchain, fakeToolchain } from './fake-toolchain.ts';

let tools: FakeToolchain;
beforeEach(() => {
  tools = fakeToolchain();
  for (const [name, value] of Object.entries(tools.env)) vi.stubEnv(name, value);
});
afterEach(() => {
  vi.unstubAllEnvs();
  tools.dispose();
});

test('where the addon cannot be built, the report says why and examines WebAssembly', async () => {
  tools.remove('g++');
  const report = await doctor();
  expect(report.backend).toMatchObject({ kind: 'wasm', usesGpu: false });
  expect(report.backend.notes[0]).toContain('C++ compiler was not found');
  expect(report.versions.tensorflow).toBeUndefined();
  expect([report.compiledFunctions, report.xla, report.bf16].map(({ status }) => status)).toEqual(
    Array(3).fill('unavailable'),
  );
  expect(report.matmul).toEqual({ size: 1024, fp32: expect.any(Number) });
  expect(tf.getBackend()).toBe('wasm');

  const double = compile('double', ({ x }: { x: Tensor }) => ({ y: tf.mul(x, 2) as Tensor }));
  expect(Array.from(double({ x: tf.tensor1d([1, 2]) }).y.dataSync())).toEqual([2, 4]);
});

import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { writeWheel } from '../../test/fake-toolchain.ts';
import { isCudaRuntime, isLibraryOrHeader } from './libraries.ts';
import { readExtraRequirements, unpackWheel } from './wheel.ts';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'anneal-wheel-'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const unpackedFiles = () =>
  readdirSync(path.join(folder, 'out'), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => path.relative(path.join(folder, 'out'), path.join(entry.parentPath, entry.name)))
    .sort();

test('wanted files are unpacked unchanged, tools stay executable', async () => {
  const wheel = path.join(folder, 'nvidia.whl');
  const library = 'x'.repeat(300_000);
  writeWheel(
    wheel,
    {
      'nvidia/cuda_nvcc/bin/ptxas': '#!/bin/sh',
      'nvidia/cublas/lib/libcublas.so.12': library,
      'nvidia/cublas/include/cublas.h': '',
      'nvidia/__init__.py': '',
      'nvidia_cublas_cu12-12.9.dist-info/RECORD': '',
    },
    ['nvidia/cuda_nvcc/bin/ptxas'],
  );
  await unpackWheel(wheel, path.join(folder, 'out'), isCudaRuntime);
  expect(unpackedFiles()).toEqual(['nvidia/cublas/lib/libcublas.so.12', 'nvidia/cuda_nvcc/bin/ptxas']);
  expect(readFileSync(path.join(folder, 'out/nvidia/cublas/lib/libcublas.so.12'), 'utf8')).toBe(library);
  expect(statSync(path.join(folder, 'out/nvidia/cuda_nvcc/bin/ptxas')).mode & 0o111).toBe(0o111);
  expect(statSync(path.join(folder, 'out/nvidia/cublas/lib/libcublas.so.12')).mode & 0o111).toBe(0);
});

test('a wheel cannot write outside of its folder', async () => {
  const wheel = path.join(folder, 'evil.whl');
  writeWheel(wheel, { '../evil.txt': 'evil' });
  await expect(unpackWheel(wheel, path.join(folder, 'out'), () => true)).rejects.toThrow(
    /invalid relative path/,
  );
  expect(readdirSync(folder)).toEqual(['evil.whl']);
});

test('of TensorFlow only the two libraries, the headers that the addon includes and the notices are wanted', () => {
  expect(isLibraryOrHeader('tensorflow/libtensorflow_cc.so.2')).toBe(true);
  expect(isLibraryOrHeader('tensorflow/include/tensorflow/c/eager/c_api.h')).toBe(true);
  expect(isLibraryOrHeader('tensorflow/include/Eigen/Core')).toBe(false);
  expect(isLibraryOrHeader('tensorflow/python/_pywrap_tensorflow.so')).toBe(false);
});

test('the requirements of one extra are read from the metadata', async () => {
  const wheel = path.join(folder, 'tensorflow.whl');
  // Lines of TensorFlow 2.21.0's own metadata.
  const metadata = [
    'Metadata-Version: 2.4',
    'Requires-Dist: absl-py>=1.0.0',
    'Provides-Extra: and-cuda',
    'Requires-Dist: nvidia-cublas-cu12<13.0,>=12.5.3.2; extra == "and-cuda"',
    'Requires-Dist: nvidia-nccl-cu12<3.0,>=2.27.7; extra == "and-cuda"',
    'Requires-Dist: tensorflow-io-gcs-filesystem>=0.23.1; (sys_platform != "win32" and python_version < "3.13") and extra == "gcs-filesystem"',
  ];
  writeWheel(wheel, { 'tensorflow-2.21.0.dist-info/METADATA': metadata.join('\n') });
  expect(await readExtraRequirements(wheel, 'and-cuda')).toEqual([
    'nvidia-cublas-cu12<13.0,>=12.5.3.2',
    'nvidia-nccl-cu12<3.0,>=2.27.7',
  ]);
});

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { findStockBinding } from './stock-binding.ts';

let project: string;
beforeEach(() => {
  project = mkdtempSync(path.join(tmpdir(), 'anneal-project-'));
});
afterEach(() => rmSync(project, { recursive: true, force: true }));

function install(name: string, withBinding: boolean): string {
  const folder = path.join(project, 'node_modules', '@tensorflow', name);
  const lib = path.join(folder, 'lib', 'napi-v8');
  mkdirSync(lib, { recursive: true });
  writeFileSync(
    path.join(folder, 'package.json'),
    JSON.stringify({ name: `@tensorflow/${name}`, version: '4.22.0' }),
  );
  if (withBinding) writeFileSync(path.join(lib, 'tfjs_binding.node'), '');
  return path.join(lib, 'tfjs_binding.node');
}

test('an installed package counts only with its compiled binding', async () => {
  install('tfjs-node', false);
  expect(await findStockBinding(false, project)).toBeUndefined();
  const addonPath = install('tfjs-node', true);
  expect(await findStockBinding(false, project)).toEqual({
    package: '@tensorflow/tfjs-node',
    version: '4.22.0',
    addonPath,
  });
});

test('the GPU package is preferred for a GPU only', async () => {
  install('tfjs-node', true);
  install('tfjs-node-gpu', true);
  expect((await findStockBinding(true, project))?.package).toBe('@tensorflow/tfjs-node-gpu');
  expect((await findStockBinding(false, project))?.package).toBe('@tensorflow/tfjs-node');
});

import { execFileSync } from 'node:child_process';
import { expect, test } from 'vitest';
import { prepareTensorflow, TENSORFLOW_VERSION } from '../src/index.ts';

test("the addon in the user's cache is the TensorFlow it claims to be, with our extension", async () => {
  const prepared = await prepareTensorflow({ device: 'cpu' });
  expect(prepared).toMatchObject({ kind: 'addon', gpu: false, tensorflowVersion: TENSORFLOW_VERSION });
  const script =
    'const b = require(process.argv[1]); console.log(b.TF_Version, typeof b.graphFunction, typeof b.executeOp)';
  const printed = execFileSync(process.execPath, ['-e', script, prepared.addonPath!], { encoding: 'utf8' });
  expect(printed.trim()).toBe(`${TENSORFLOW_VERSION} function function`);
}, 900_000);

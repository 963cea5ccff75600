/** Makes a prepared TensorFlow this thread's tfjs backend. */
import { createRequire } from 'node:module';
import path from 'node:path';
import { installAddon } from './backend.ts';
import type { PreparedTensorflow } from './install/prepare.ts';
import { tf } from './tf.ts';

const require = createRequire(import.meta.url);

/**
 * Loads what `prepareTensorflow` chose and waits until tensors can be made. Call it once in every thread that computes.
 *
 * @throws when the library cannot be loaded into this process.
 */
export async function loadTensorflow(prepared: PreparedTensorflow): Promise<void> {
  if (prepared.addonPath) installAddon(prepared.addonPath);
  else await installWasm();
  await tf.ready();
}

async function installWasm(): Promise<void> {
  const wasm = require('@tensorflow/tfjs-backend-wasm') as typeof import('@tensorflow/tfjs-backend-wasm');
  wasm.setWasmPaths(`${path.dirname(require.resolve('@tensorflow/tfjs-backend-wasm'))}/`);
  await tf.setBackend('wasm');
}

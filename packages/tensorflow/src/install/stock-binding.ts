/** Finds an addon that upstream's own install script has put beside tfjs-node. */
import { access, readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

export interface StockBinding {
  package: '@tensorflow/tfjs-node-gpu' | '@tensorflow/tfjs-node';
  version: string;
  addonPath: string;
}

/**
 * Looks in the project that runs us (`from`, a folder) and in our own dependencies.
 * @param gpu Prefers tfjs-node-gpu, else tfjs-node.
 */
export async function findStockBinding(
  gpu: boolean,
  from = process.cwd(),
): Promise<StockBinding | undefined> {
  const names = ['@tensorflow/tfjs-node-gpu', '@tensorflow/tfjs-node'] as const;
  const anchors = [pathToFileURL(path.join(from, 'package.json')), import.meta.url];
  for (const name of gpu ? names : names.toReversed()) {
    for (const anchor of anchors) {
      const binding = await bindingOf(name, createRequire(anchor));
      if (binding) return binding;
    }
  }
  return undefined;
}

async function bindingOf(
  name: StockBinding['package'],
  require: NodeJS.Require,
): Promise<StockBinding | undefined> {
  try {
    const manifest = require.resolve(`${name}/package.json`);
    const addonPath = path.join(path.dirname(manifest), 'lib', 'napi-v8', 'tfjs_binding.node');
    await access(addonPath);
    const { version } = JSON.parse(await readFile(manifest, 'utf8')) as { version: string };
    return { package: name, version, addonPath };
  } catch {
    return undefined;
  }
}

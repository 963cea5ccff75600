/** Finds the addon's C++ sources: upstream's in the tfjs-node-gpu npm package, ours in `native/`. */
import { createHash } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const require = createRequire(import.meta.url);

export interface AddonSources {
  /** Version of the tfjs-node-gpu package. */
  tfjsVersion: string;
  /** Folder of upstream's sources. */
  binding: string;
  /** Folder of our sources. */
  native: string;
  /** Folder of `node_api.h`. */
  nodeHeaders: string;
}

export function findAddonSources(): AddonSources {
  const manifest = require.resolve('@tensorflow/tfjs-node-gpu/package.json');
  return {
    tfjsVersion: (require(manifest) as { version: string }).version,
    binding: path.join(path.dirname(manifest), 'binding'),
    native: fileURLToPath(new URL('../../native/', import.meta.url)),
    nodeHeaders: (require('node-api-headers') as { include_dir: string }).include_dir,
  };
}

/** First 12 hex digits of a SHA-256 over names and contents of all sources, and over `salt`. */
export async function hashSources(sources: AddonSources, salt: string): Promise<string> {
  const hash = createHash('sha256').update(salt);
  for (const folder of [sources.binding, sources.native]) {
    for (const file of (await readdir(folder)).filter((name) => /\.(cc|h)$/.test(name)).sort()) {
      hash.update(`\0${file}\0`).update(await readFile(path.join(folder, file)));
    }
  }
  return hash.digest('hex').slice(0, 12);
}

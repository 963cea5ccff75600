/** Bun and Deno for tests: those that are installed, or their npm packages, kept in the user's cache folder. */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { cacheDir } from './cache-dir.mjs';

const VERSIONS = { bun: '1.4.5', deno: '2.9.6' };

const runs = (command) => spawnSync(command, ['--version']).status === 0;

function install(name, folder) {
  mkdirSync(cacheDir(), { recursive: true });
  const temporary = mkdtempSync(join(cacheDir(), `${name}-`));
  try {
    writeFileSync(join(temporary, 'package.json'), '{"private":true}\n');
    const options = ['--no-audit', '--no-fund', '--loglevel=error', '--prefix', temporary];
    const { status } = spawnSync('npm', ['install', ...options, `${name}@${VERSIONS[name]}`], {
      stdio: ['ignore', 'ignore', 'inherit'],
    });
    // The folder takes its name when it is whole; another test run may have been quicker.
    if (status === 0 && !existsSync(folder)) renameSync(temporary, folder);
  } finally {
    rmSync(temporary, { recursive: true, force: true });
  }
}

/**
 * Path of `bun` or `deno`, or undefined where it cannot be had.
 *
 * @param {'bun' | 'deno'} name
 * @param {(line: string) => void} say
 */
export function ensureRuntime(name, say) {
  if (runs(name)) return name;
  const folder = join(cacheDir(), `${name}-${VERSIONS[name]}`);
  const binary = join(folder, 'node_modules', '.bin', name);
  if (!existsSync(binary)) {
    say(`fetching ${name} ${VERSIONS[name]} (once)`);
    install(name, folder);
  }
  return runs(binary) ? binary : undefined;
}

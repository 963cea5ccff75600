/** Python environments for tests: one per requirements file, in the user's cache folder, made once. */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { cacheDir } from './cache-dir.mjs';

const CANDIDATES = ['python3.13', 'python3.12', 'python3.11', 'python3'];

function versionOf(command) {
  const print = 'import sys; print("%d.%d" % sys.version_info[:2])';
  const result = spawnSync(command, ['-c', print], { encoding: 'utf8' });
  return result.status === 0 ? result.stdout.trim() : undefined;
}

/** The first Python of at least 3.11; ANNEAL_PYTHON overrides. */
function findPython() {
  const wanted = process.env.ANNEAL_PYTHON ? [process.env.ANNEAL_PYTHON] : CANDIDATES;
  for (const command of wanted) {
    const version = versionOf(command);
    if (version && Number(version.split('.')[1]) >= 11) return { command, version };
  }
  throw new Error(
    `Python 3.11 or newer was not found (tried ${wanted.join(', ')}); set ANNEAL_PYTHON to one.`,
  );
}

function run(command, args) {
  const result = spawnSync(command, args, { encoding: 'utf8' });
  if (result.status === 0) return;
  const output = result.error?.message ?? `${result.stdout}${result.stderr}`;
  throw new Error(`${command} ${args.join(' ')} failed:\n${output.trim().split('\n').slice(-15).join('\n')}`);
}

/**
 * Path of the Python of an environment that holds what `requirements` lists. A stamp is written last, so an environment
 * that was cut off while it was made is made anew.
 */
export function ensurePythonEnv(name, requirements, say) {
  const { command, version } = findPython();
  const digest = createHash('sha256').update(readFileSync(requirements)).update(version).digest('hex');
  const folder = join(cacheDir(), 'python', `${name}-${digest.slice(0, 12)}`);
  const python = join(folder, 'bin', 'python');
  const stamp = join(folder, '.complete');
  if (existsSync(stamp)) return python;
  say(`making the Python environment "${name}" (once)`);
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  run(command, ['-m', 'venv', folder]);
  run(python, ['-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', '-r', requirements]);
  writeFileSync(stamp, '');
  return python;
}

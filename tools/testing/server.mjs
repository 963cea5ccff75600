/** Starts the built server as a user would, on a free port and an empty data folder. */
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

const CLI = join(import.meta.dirname, '..', '..', 'packages', 'cli', 'dist', 'main.js');
const START_LIMIT_MS = 15 * 60_000;
const KEPT_OUTPUT = 20_000;

async function freePort() {
  const probe = createServer();
  await new Promise((resolve, reject) => probe.once('error', reject).listen(0, '127.0.0.1', resolve));
  const { port } = probe.address();
  await new Promise((resolve) => probe.close(resolve));
  return port;
}

async function healthy(url) {
  try {
    const answer = await fetch(`${url}/api/v1/healthz`, { signal: AbortSignal.timeout(5000) });
    return answer.ok;
  } catch {
    return false;
  }
}

/**
 * @param {{ flags?: string[], env?: Record<string, string> }} [options]
 * @returns a running server: its URL, key, data folder, what it printed, and `stop()`
 */
export async function startServer({ flags = [], env = {} } = {}) {
  const port = await freePort();
  const key = `tml-${randomBytes(24).toString('hex')}`;
  const dataDir = mkdtempSync(join(tmpdir(), 'anneal-test-'));
  const args = [CLI, 'serve', '--host', '127.0.0.1', '--port', String(port), '--data-dir', dataDir, ...flags];
  const child = spawn(process.execPath, args, {
    env: { ...process.env, ANNEAL_API_KEY: key, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  const keep = (chunk) => {
    output = (output + chunk).slice(-KEPT_OUTPUT);
  };
  child.stdout.on('data', keep);
  child.stderr.on('data', keep);
  const ended = new Promise((resolve) => child.once('exit', (code, signal) => resolve(code ?? signal)));
  const abandon = () => child.kill('SIGKILL');
  process.on('exit', abandon);
  const stop = async () => {
    child.kill('SIGTERM');
    const late = setTimeout(abandon, 30_000);
    await ended;
    clearTimeout(late);
    process.off('exit', abandon);
    rmSync(dataDir, { recursive: true, force: true });
  };

  const url = `http://127.0.0.1:${port}`;
  for (const deadline = Date.now() + START_LIMIT_MS; !(await healthy(url)); ) {
    const exit = await Promise.race([ended, sleep(300)]);
    if (exit !== undefined) throw new Error(`the server ended at its start (${exit}):\n${output}`);
    if (Date.now() > deadline) {
      await stop();
      throw new Error(`the server was not healthy in time:\n${output}`);
    }
  }
  return { url, key, dataDir, output: () => output, stop };
}

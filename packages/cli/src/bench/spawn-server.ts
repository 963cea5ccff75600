/** A real server in a process of its own, started as `anneal serve` is, on a free port and an empty data folder. */
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { CliError } from '../errors.ts';

export interface SpawnedServer {
  url: string;
  apiKey: string;
  pid: number;
  /** Seconds from the start of the process until it answered that it is healthy. */
  startSeconds: number;
  stop(): Promise<void>;
}

const FROM_SOURCE = import.meta.url.endsWith('.ts');
const MAIN = fileURLToPath(new URL(FROM_SOURCE ? '../main.ts' : '../main.js', import.meta.url));
const NODE_FLAGS = FROM_SOURCE
  ? ['--conditions=@anneal/source', '--disable-warning=ExperimentalWarning']
  : [];
const KEPT_OUTPUT = 4000;
const PATIENCE_MS = 30_000;

/** @throws CliError with the server's last words when it ends instead of starting. */
export async function spawnServer(folder: string, name: string, precision: string): Promise<SpawnedServer> {
  const dataDir = mkdtempSync(path.join(tmpdir(), 'anneal-bench-'));
  const apiKey = `tml-${randomBytes(16).toString('hex')}`;
  const start = performance.now();
  const flags = ['--model', `${name}=${folder}`, '--precision', precision, '--data-dir', dataDir];
  const child = spawn(
    process.execPath,
    [...NODE_FLAGS, MAIN, 'serve', '--host', '127.0.0.1', '--port', '0', ...flags],
    { env: { ...process.env, ANNEAL_API_KEY: apiKey }, stdio: ['ignore', 'pipe', 'pipe'] },
  );
  const abandon = () => child.kill('SIGKILL');
  process.on('exit', abandon);
  const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  const stop = async () => {
    child.kill('SIGTERM');
    const late = setTimeout(abandon, PATIENCE_MS);
    await ended;
    clearTimeout(late);
    process.off('exit', abandon);
    rmSync(dataDir, { recursive: true, force: true });
  };
  try {
    const url = await announcedUrl(child.stdout, child.stderr, ended);
    const health = await fetch(`${url}/api/v1/healthz`);
    if (!health.ok) throw new CliError(`the server is not healthy: status ${health.status}`);
    return { url, apiKey, pid: child.pid!, startSeconds: (performance.now() - start) / 1000, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

/** The address in the banner, which is printed once training and sampling work. */
function announcedUrl(
  stdout: NodeJS.ReadableStream,
  stderr: NodeJS.ReadableStream,
  ended: Promise<void>,
): Promise<string> {
  return new Promise((resolve, reject) => {
    let output = '';
    const read = (chunk: Buffer) => {
      output = (output + chunk.toString()).slice(-KEPT_OUTPUT);
      const url = output.match(/^\s+URL\s+(http\S+)$/m)?.[1];
      if (url !== undefined) resolve(url);
    };
    stdout.on('data', read);
    stderr.on('data', read);
    void ended.then(() => reject(new CliError(`the server ended at its start:\n${output}`)));
  });
}

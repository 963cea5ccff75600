/** Runs `anneal` from its sources, beside a real server on a tiny model. */
import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { type SpawnedServer, spawnServer } from '../src/bench/spawn-server.ts';

const MAIN = fileURLToPath(new URL('../src/main.ts', import.meta.url));

/** A random Llama of 368 tokens with a chat template. */
export const TINY_MODEL = fileURLToPath(new URL('../../engine/fixtures/arch/llama3/model', import.meta.url));
export const MODEL = 'tiny';

export const startServer = (): Promise<SpawnedServer> => spawnServer(TINY_MODEL, MODEL, 'fp32');

export interface Ended {
  status: number | null;
  stdout: string;
  stderr: string;
}

export interface Running {
  server?: SpawnedServer;
  /** Piped in; without it there is none. */
  input?: string;
  env?: NodeJS.ProcessEnv;
  /** Press Ctrl-C when this is in the output. */
  interruptAt?: string;
  /** End it without a warning when this is in the output. */
  killAt?: string;
}

/** The command's end. */
export function anneal(
  args: string[],
  { server, input = '', env = {}, interruptAt, killAt }: Running = {},
): Promise<Ended> {
  const reached = server ? { TINKER_BASE_URL: server.url, TINKER_API_KEY: server.apiKey } : {};
  const child = spawn(
    process.execPath,
    ['--conditions=@anneal/source', '--disable-warning=ExperimentalWarning', MAIN, ...args],
    { env: { ...process.env, ...reached, ...env } },
  );
  let [stdout, stderr] = ['', ''];
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    const awaited = interruptAt ?? killAt;
    const isNew = awaited !== undefined && !stdout.includes(awaited);
    stdout += text;
    if (isNew && stdout.includes(awaited)) child.kill(killAt === undefined ? 'SIGINT' : 'SIGKILL');
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text));
  child.stdin.on('error', () => {}).end(input);
  return new Promise((resolve) => child.once('close', (status) => resolve({ status, stdout, stderr })));
}

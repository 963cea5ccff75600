/** Starts a throw-away PostgreSQL from the system's own package, for tests. */
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chown, mkdir, mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';

const run = promisify(execFile);

/** PostgreSQL refuses to run as root: then the account of this id runs it. */
const UNPRIVILEGED = 65534;

export interface TestPostgres {
  /** URL of a new, empty database on this server. */
  newDatabase(): Promise<string>;
  stop(): Promise<void>;
}

/** The folder with `initdb` and `postgres`, or undefined where PostgreSQL is not installed. */
export async function findPostgres(): Promise<string | undefined> {
  const root = '/usr/lib/postgresql';
  const versions = await readdir(root).catch(() => []);
  const newest = versions.sort((a, b) => Number(b) - Number(a))[0];
  return newest === undefined ? undefined : join(root, newest, 'bin');
}

/** Starts a server that listens on a socket in a temporary folder only. */
export async function startPostgres(bin: string): Promise<TestPostgres> {
  const isRoot = process.getuid?.() === 0;
  const account = isRoot ? { uid: UNPRIVILEGED, gid: UNPRIVILEGED } : {};
  const home = await mkdtemp(join(tmpdir(), 'anneal-pg-'));
  const data = join(home, 'data');
  await mkdir(data);
  if (isRoot) {
    await chown(home, UNPRIVILEGED, UNPRIVILEGED);
    await chown(data, UNPRIVILEGED, UNPRIVILEGED);
  }
  await run(join(bin, 'initdb'), ['-D', data, '-U', 'anneal', '--auth=trust', '-N'], account);
  const args = ['-D', data, '-k', home, '-c', 'listen_addresses=', '-c', 'fsync=off'];
  const server = spawn(join(bin, 'postgres'), args, { ...account, stdio: 'ignore' });
  const socket = ['-h', home, '-U', 'anneal'];
  await waitUntilReady(() => run(join(bin, 'pg_isready'), socket));
  let count = 0;
  return {
    newDatabase: async () => {
      count += 1;
      await run(join(bin, 'createdb'), [...socket, `test${count}`]);
      return `postgres://anneal@/test${count}?host=${encodeURIComponent(home)}`;
    },
    stop: async () => {
      const exited = once(server, 'exit');
      server.kill('SIGINT');
      await exited;
      await rm(home, { recursive: true, force: true });
    },
  };
}

async function waitUntilReady(probe: () => Promise<unknown>): Promise<void> {
  for (let attempt = 0; attempt < 100; attempt += 1) {
    try {
      await probe();
      return;
    } catch {
      await delay(100);
    }
  }
  throw new Error('PostgreSQL did not start within 10 seconds');
}

import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, utimesSync } from 'node:fs';
import path from 'node:path';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type FakeToolchain, fakeToolchain } from './fake-toolchain.ts';

let tools: FakeToolchain;
const children: ChildProcess[] = [];

beforeEach(() => {
  tools = fakeToolchain();
});

afterEach(() => {
  for (const child of children.splice(0)) child.kill('SIGKILL');
  tools.dispose();
});

const MODULE = new URL('../src/install/prepare.ts', import.meta.url).href;
const SCRIPT = `
const { prepareTensorflow } = await import(${JSON.stringify(MODULE)});
const steps = [];
const { kind, addonPath } = await prepareTensorflow({ onProgress: ({ step }) => steps.push(step) });
process.dlopen({ exports: {} }, addonPath);
console.log(JSON.stringify({ kind, steps }));
`;

// Ends when its parent does, so that nothing outlives the test.
const DOWNLOAD_THAT_HANGS = `
fs.writeFileSync(path.join(option('--dest'), 'half'), '');
const parent = process.ppid;
setInterval(() => process.ppid === parent || process.exit(), 100);
`;

function start(): ChildProcess {
  const args = ['--experimental-strip-types', '--no-warnings', '--input-type=module', '--eval', SCRIPT];
  const child = spawn(process.execPath, args, { env: tools.env, stdio: ['ignore', 'pipe', 'inherit'] });
  children.push(child);
  return child;
}

async function result(child: ChildProcess): Promise<{ kind: string; steps: string[] }> {
  const output = await text(child.stdout!);
  return JSON.parse(output) as { kind: string; steps: string[] };
}

test('of three processes that start at once, one builds and the others wait for it', async () => {
  const results = await Promise.all([start(), start(), start()].map(result));
  expect(results.map(({ kind }) => kind)).toEqual(['addon', 'addon', 'addon']);
  expect(tools.calls()).toEqual(['python3', 'g++']);
  expect(results.filter(({ steps }) => steps.includes('compile'))).toHaveLength(1);
});

test('the lock of a process that was killed is taken over, and its files are removed', async () => {
  const root = path.join(tools.cacheDir, 'tensorflow');
  const build = fakeToolchain();
  tools.set('python3', DOWNLOAD_THAT_HANGS);
  const killed = start();
  const half = () =>
    existsSync(root) && readdirSync(root, { recursive: true }).some((file) => String(file).endsWith('half'));
  while (!half()) await sleep(50);
  killed.kill('SIGKILL');
  await once(killed, 'exit');
  expect(existsSync(`${root}.lock`)).toBe(true);

  // As if its last sign of life were a minute old.
  const past = Date.now() / 1000 - 60;
  utimesSync(`${root}.lock`, past, past);
  tools.env.PATH = build.env.PATH!;
  const { kind, steps } = await result(start()).finally(build.dispose);
  expect(kind).toBe('addon');
  expect(steps).toContain('compile');
  expect(readdirSync(root).sort()).toEqual([
    expect.stringMatching(/^addon-/),
    expect.stringMatching(/^libraries-/),
  ]);
  expect(existsSync(`${root}.lock`)).toBe(false);
});

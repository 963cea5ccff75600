/**
 * Packs the client and what it needs, checks the tarballs, installs them in an empty project, and uses them there: in Node,
 * Bun, Deno and Chromium, and from TypeScript. ANNEAL_BUN, ANNEAL_DENO and ANNEAL_CHROMIUM name the other runtimes; one
 * that is named nowhere and not on the PATH is skipped, and said. Needs a build.
 */
import { execFile, spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { ReferenceServer } from '../test/reference-server.ts';
import { runInChromium } from './chromium.ts';
import { programOf, TYPED_PROGRAM } from './programs.ts';

const packages = fileURLToPath(new URL('../../', import.meta.url));
const tools = fileURLToPath(new URL('../../../node_modules/.bin/', import.meta.url));
const tokenizer = join(packages, 'tokenizer', 'fixtures', 'qwen3');
const PACKED = ['types', 'tokenizer', 'client'];
/** The loss, the decoded sample, and the length of the chat's example: the same everywhere. */
const EXPECTED = /^function 5\.1 %& \d+$/;

const folder = mkdtempSync(join(tmpdir(), 'anneal-package-'));
const server = new ReferenceServer();
let baseUrl: string;

const runFile = promisify(execFile);

async function run(command: string, args: string[], cwd: string): Promise<string> {
  try {
    return (await runFile(command, args, { cwd })).stdout;
  } catch (error) {
    const { stdout, stderr, message } = error as Error & { stdout?: string; stderr?: string };
    throw new Error(`${message}\n${stdout ?? ''}${stderr ?? ''}`);
  }
}

const tarballOf = (name: string) =>
  join(folder, readdirSync(folder).find((file) => file.startsWith(`anneal-${name}-`)) ?? '');

beforeAll(async () => {
  for (const name of PACKED) await run('npm', ['pack', '--pack-destination', folder], join(packages, name));
  writeFileSync(join(folder, 'package.json'), '{"private":true,"type":"module"}');
  const options = ['--no-audit', '--no-fund', '--prefer-offline'];
  await run('npm', ['install', ...options, ...PACKED.map(tarballOf)], folder);
  baseUrl = await server.listen();
  const places = { baseUrl: JSON.stringify(baseUrl), tokenizer: JSON.stringify(tokenizer) };
  writeFileSync(join(folder, 'program.mjs'), programOf({ ...places, report: 'console.log' }));
});

afterAll(async () => {
  await server.close();
  rmSync(folder, { recursive: true, force: true });
});

test.each(PACKED)('publint and attw have nothing to say about %s', async (name) => {
  await run(join(tools, 'publint'), ['--strict', tarballOf(name)], folder);
  await run(join(tools, 'attw'), [tarballOf(name), '--profile', 'esm-only'], folder);
});

test('the declarations compile, strictly and without those of Node', async () => {
  writeFileSync(join(folder, 'program.ts'), TYPED_PROGRAM);
  const compilerOptions = {
    strict: true,
    noEmit: true,
    module: 'nodenext',
    target: 'es2023',
    lib: ['es2024', 'esnext.disposable', 'dom', 'dom.iterable', 'dom.asynciterable'],
    types: [],
  };
  writeFileSync(join(folder, 'tsconfig.json'), JSON.stringify({ compilerOptions, files: ['program.ts'] }));
  await run(join(tools, 'tsc'), ['-p', '.'], folder);
});

/** Path of a runtime: as named in the environment, else by its own name on the PATH. */
function find(variable: string, ...names: string[]): string | undefined {
  const named = process.env[variable];
  if (named) return named;
  return names.find((name) => spawnSync(name, ['--version']).status === 0);
}

/** A test that needs a runtime; without it, it is skipped aloud. */
function withRuntime(name: string, path: string | undefined, work: (path: string) => Promise<string>): void {
  if (!path) console.warn(`SKIPPED: there is no ${name} here to try the installed package with`);
  test.skipIf(!path)(`${name} runs the installed package`, async () => {
    expect((await work(path!)).trim()).toMatch(EXPECTED);
  });
}

withRuntime('node', process.execPath, (path) => run(path, ['program.mjs'], folder));
withRuntime('bun', find('ANNEAL_BUN', 'bun'), (path) => run(path, ['program.mjs'], folder));
withRuntime('deno', find('ANNEAL_DENO', 'deno'), (path) =>
  run(path, ['run', '--allow-net', '--allow-read', '--allow-env', 'program.mjs'], folder),
);
withRuntime('chromium', find('ANNEAL_CHROMIUM', 'chromium', 'chromium-browser', 'google-chrome'), (path) => {
  const entry = join(folder, 'page.mjs');
  const places = { baseUrl: 'location.origin', tokenizer: "location.origin + '/files'" };
  writeFileSync(entry, programOf({ ...places, report: 'window.report' }));
  return runInChromium(path, entry, baseUrl, tokenizer);
});

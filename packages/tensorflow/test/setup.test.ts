import { existsSync, mkdirSync, readdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { prepareTensorflow, type SetupProgress, TensorflowSetupError } from '../src/index.ts';
import { ensureAddon } from '../src/install/addon.ts';
import { describeHost } from '../src/install/host.ts';
import { chooseWheel } from '../src/install/wheel-plan.ts';
import { type FakeToolchain, fakeToolchain } from './fake-toolchain.ts';

let tools: FakeToolchain;
const realPath = process.env.PATH ?? '';

beforeEach(() => {
  tools = fakeToolchain();
  for (const [name, value] of Object.entries(tools.env)) vi.stubEnv(name, value);
});

afterEach(() => {
  vi.unstubAllEnvs();
  tools.dispose();
});

async function failure(setup: Promise<unknown> = prepareTensorflow()): Promise<TensorflowSetupError> {
  const error = await setup.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (TensorflowSetupError.isInstance(error)) return error;
  throw error ?? new Error('the setup succeeded');
}

const cacheEntries = () => readdirSync(path.join(tools.cacheDir, 'tensorflow')).sort();

test('a fresh cache gets an addon that loads; the second time no tool runs', async () => {
  const events: SetupProgress[] = [];
  const prepared = await prepareTensorflow({ onProgress: (event) => events.push(event) });
  expect(prepared).toMatchObject({ kind: 'addon', gpu: false, notes: [] });
  expect(createRequire(import.meta.url)(prepared.addonPath!)).toEqual({});
  expect([...new Set(events.map(({ step }) => step))]).toEqual(
    expect.arrayContaining(['unpack', 'compile', 'verify', 'ready']),
  );
  expect(cacheEntries()).toEqual([expect.stringMatching(/^addon-/), expect.stringMatching(/^libraries-/)]);

  expect(await prepareTensorflow()).toEqual(prepared);
  expect(tools.calls()).toEqual(['python3', 'g++']);
});

test('only the libraries and headers of the wheel are kept', async () => {
  await prepareTensorflow();
  const libraries = path.join(tools.cacheDir, 'tensorflow', cacheEntries()[1]!);
  expect(readdirSync(path.join(libraries, 'tensorflow')).sort()).toEqual([
    'include',
    'libtensorflow_cc.so.2',
    'libtensorflow_framework.so.2',
  ]);
});

test('a missing pip is reported with the packages that bring it', async () => {
  tools.remove('python3');
  const error = await failure();
  expect(error.code).toBe('pip_missing');
  expect(error.message).toContain('apt install python3-pip');
  expect(cacheEntries()).toEqual([]);
});

test('a missing compiler is reported before anything is downloaded', async () => {
  tools.remove('g++');
  const error = await failure();
  expect(error.code).toBe('compiler_missing');
  expect(error.message).toContain('apt install g++');
  expect(tools.calls()).toEqual([]);
});

test("an unreachable index is reported in pip's own words", async () => {
  vi.stubEnv('PATH', `${realPath}`);
  for (const [name, value] of Object.entries({
    PIP_CONFIG_FILE: '/dev/null',
    PIP_INDEX_URL: 'http://127.0.0.1:9/simple',
    PIP_FIND_LINKS: '',
    PIP_RETRIES: '0',
  }))
    vi.stubEnv(name, value);
  const error = await failure();
  expect(error.code).toBe('download_failed');
  expect(error.message).toMatch(/ERROR: .*tensorflow/);
  expect(cacheEntries()).toEqual([]);
});

test('too little disk space is noticed before the download', async () => {
  const { plan } = chooseWheel(await describeHost(), 'cpu');
  const request = {
    plan: { ...plan!, diskBytes: 1e18 },
    cacheDir: tools.cacheDir,
    env: process.env,
    onProgress: () => {},
  };
  const error = await failure(ensureAddon(request));
  expect(error.code).toBe('disk_full');
  expect(error.message).toMatch(/needs 1000000000000 MB, \d+ MB are free/);
  expect(tools.calls()).toEqual([]);
});

test.each([
  ['the download', 'python3', 'ERROR: Could not install packages: [Errno 28] No space left on device'],
  ['the compilation', 'g++', 'as: anneal.o: No space left on device'],
] as const)('a disk that fills up during %s is called full', async (_when, tool, message) => {
  tools.set(tool, `console.error(${JSON.stringify(message)}); process.exit(1);`);
  expect((await failure()).code).toBe('disk_full');
});

test('a broken wheel is reported, not unpacked', async () => {
  tools.set(
    'python3',
    `fs.writeFileSync(path.join(option('--dest'), 'tensorflow_cpu.whl'), '<html>Not found</html>');`,
  );
  const error = await failure();
  expect(error.code).toBe('download_failed');
  expect(cacheEntries()).toEqual([]);
});

test('a failed compilation shows what the compiler said, and keeps the download', async () => {
  tools.set('g++', `console.error('error: unknown option -std=c++17'); process.exit(1);`);
  const error = await failure();
  expect(error.code).toBe('compile_failed');
  expect(error.message).toContain('unknown option -std=c++17');
  expect(cacheEntries()).toEqual([expect.stringMatching(/^libraries-/)]);

  await failure();
  expect(tools.calls()).toEqual(['python3', 'g++', 'g++']);
});

test('an addon that does not load is not kept', async () => {
  tools.set('g++', `fs.writeFileSync(option('-o'), 'not a library'.repeat(99));`);
  const error = await failure();
  expect(error.code).toBe('addon_unloadable');
  expect(error.message).toContain('invalid ELF header');
  expect(cacheEntries()).toEqual([expect.stringMatching(/^libraries-/)]);
});

test('a damaged library is downloaded again', async () => {
  const { addonPath } = await prepareTensorflow();
  const library = path.join(
    tools.cacheDir,
    'tensorflow',
    cacheEntries()[1]!,
    'tensorflow',
    'libtensorflow_cc.so.2',
  );
  truncateSync(library, 3);
  expect((await prepareTensorflow()).addonPath).toBe(addonPath);
  expect(readFileSync(library, 'utf8')).toBe('library');
});

test('what a killed process left behind is removed', async () => {
  const leftover = path.join(tools.cacheDir, 'tensorflow', 'work-abcdef');
  mkdirSync(leftover, { recursive: true });
  writeFileSync(path.join(leftover, 'half.whl'), 'half');
  await prepareTensorflow();
  expect(existsSync(leftover)).toBe(false);
});

test('a cache folder that cannot be made is named', async () => {
  const file = path.join(tools.cacheDir, 'file');
  mkdirSync(tools.cacheDir);
  writeFileSync(file, '');
  const error = await failure(prepareTensorflow({ cacheDir: path.join(file, 'cache') }));
  expect(error.code).toBe('cache_unwritable');
  expect(error.message).toContain(file);
  expect(error.message).toContain('ANNEAL_CACHE_DIR');
});

test('without pip, wasm stands in only when it was allowed', async () => {
  tools.remove('python3');
  const prepared = await prepareTensorflow({ fallback: 'wasm' });
  expect(prepared).toMatchObject({ kind: 'wasm', gpu: false });
  expect(prepared.notes.join('\n')).toMatch(/pip was not found[\s\S]*Warning: using the WebAssembly backend/);
});

test('asking for a GPU where there is none fails', async () => {
  const error = await failure(prepareTensorflow({ device: 'gpu', fallback: 'wasm' }));
  expect(error.code).toBe('gpu_missing');
  expect(tools.calls()).toEqual([]);
});

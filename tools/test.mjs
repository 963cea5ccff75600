/**
 * What `npm test` runs: `node tools/test.mjs [checks|unit|docs|sdk|console|client|older|interop ...] [--all]`; without names, unit and sdk.
 * The last line adds up every suite; the exit status is 1 when anything failed.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { availableParallelism, cpus, tmpdir, totalmem } from 'node:os';
import { dirname, join } from 'node:path';
import { ensureChromium } from './testing/chromium.mjs';
import { blocksOf } from './testing/doc-blocks.mjs';
import { ensureRuntime } from './testing/js-runtimes.mjs';
import { ensurePythonEnv } from './testing/python-env.mjs';
import { startServer } from './testing/server.mjs';
import { runCheck, runPytest, runVitest } from './testing/suites.mjs';

const TOOLS = import.meta.dirname;
const ROOT = dirname(TOOLS);
const BIN = join(ROOT, 'node_modules', '.bin');
const CLI = join(ROOT, 'packages', 'cli', 'dist', 'main.js');
const MODEL = 'HuggingFaceTB/SmolLM2-135M-Instruct';
/** A random Llama of 368 tokens: enough for what does not look at quality. */
const TINY_MODEL = join(ROOT, 'packages', 'engine', 'fixtures', 'arch', 'llama3', 'model');
const DEFAULT_SUITES = ['unit', 'sdk'];

const say = (line) => console.log(`\nanneal: ${line}`);

const COMPAT = { folder: 'compat', requirements: 'compat/requirements.txt' };
const INTEROP = { folder: 'interop', requirements: 'interop/requirements.txt' };
/** 0.18 to 0.24 speak JSON; 0.25 is the first that only speaks protobuf. */
const OLDER_SDKS = ['0.18.2', '0.24.1', '0.25.0'];

const SUITES = {
  checks: async () => [
    await runCheck('format and lint', join(BIN, 'biome'), ['check', '.']),
    await runCheck('types', join(BIN, 'tsc'), ['-p', 'tsconfig.check.json']),
    await runCheck('types of the console', join(BIN, 'tsc'), ['-p', 'apps/console/tsconfig.test.json']),
  ],
  unit: async () => [await runVitest('unit tests')],
  docs: documentation,
  sdk: () => againstServer([{ ...COMPAT, name: 'tinker SDK' }]),
  console: inBrowser,
  client: withTypeScript,
  older: () =>
    againstServer(
      OLDER_SDKS.map((version) => ({
        name: `tinker SDK ${version}`,
        folder: 'older-sdks',
        requirements: `older-sdks/${version}.txt`,
      })),
    ),
  interop: () =>
    againstServer([
      { ...INTEROP, name: 'torch, transformers, peft' },
      {
        ...INTEROP,
        name: 'tinker SDK with torch',
        folder: 'compat',
        files: ['compat_complaints.py', 'compat_losses.py', 'compat_methods.py', 'compat_open.py'],
        args: ['-k', 'custom_loss'],
      },
    ]),
};

/** Runs pytest folders of tools/ with the real SDK against one fresh server. */
async function againstServer(runs) {
  const pythons = runs.map(pythonOf);
  const lossModule = documentedLoss();
  const server = await startServer({ flags: ['--model', MODEL, '--loss', lossModule] });
  const checkpoint = modelFolder();
  const banner = join(server.dataDir, 'banner.txt');
  writeFileSync(banner, server.output());
  const env = {
    TINKER_BASE_URL: server.url,
    TINKER_API_KEY: server.key,
    BASE_MODEL: MODEL,
    BASE_MODEL_DIR: checkpoint,
    ANNEAL_BANNER: banner,
    ANNEAL_DATA_DIR: server.dataDir,
    ANNEAL_CLI: CLI,
    ANNEAL_NODE: process.execPath,
    ANNEAL_TOKENIZER: checkpoint,
    COMPAT_TOKENIZER: checkpoint,
    COMPAT_TOL: '0.002',
    HF_HUB_OFFLINE: '1',
    TINKER_TELEMETRY: '0',
    TOKENIZERS_PARALLELISM: 'false',
  };
  const counts = [];
  try {
    for (const [i, { name, folder, files = [''], args }] of runs.entries()) {
      say(`${name} (tools/${folder})`);
      const paths = files.map((file) => join(TOOLS, folder, file));
      const count = await runPytest(name, { python: pythons[i], paths, args, env });
      if (count.failed > 0) console.error(`the server's last output:\n${server.output()}`);
      counts.push(count);
    }
  } finally {
    await server.stop();
    rmSync(dirname(lossModule), { recursive: true });
  }
  return counts;
}

/** The loss that docs/losses.md shows, as a module: its Python, which runs in the suite `sdk`, trains with it. */
function documentedLoss() {
  const { text } = blocksOf('docs/losses.md').find(({ mark }) => mark === 'loss-module');
  const file = join(mkdtempSync(join(tmpdir(), 'anneal-loss-')), 'my-loss.mjs');
  writeFileSync(file, text);
  return file;
}

/** The site: its build, which fails on links to nothing, and how it looks to a browser. */
async function documentation() {
  const built = await runCheck('site of the documentation', 'npm', [
    'run',
    'site',
    '--workspace',
    '@anneal/docs',
  ]);
  if (built.failed > 0) return [built];
  const name = 'site in Chromium';
  const chromium = ensureChromium(say);
  if (chromium === undefined) {
    say(`SKIPPED: ${name}. Install chromium, or name a browser in ANNEAL_CHROMIUM.`);
    return [built, { name, passed: 0, failed: 0, skipped: 1 }];
  }
  const config = ['--config', join(ROOT, 'apps/docs/vitest.browser.config.ts')];
  return [built, await runVitest(name, config, { ANNEAL_CHROMIUM: chromium })];
}

/** The TypeScript client: the SDK's scenarios against a server, its packages, used in each runtime, and its reference. */
async function withTypeScript() {
  const model = 'tiny';
  const server = await startServer({ flags: ['--model', `${model}=${TINY_MODEL}`] });
  const env = {
    TINKER_BASE_URL: server.url,
    TINKER_API_KEY: server.key,
    BASE_MODEL: model,
    COMPAT_VOCAB: '340',
    COMPAT_TOL: '0.002',
  };
  const config = (name) => ['--config', join(ROOT, `packages/client/vitest.${name}.config.ts`)];
  const counts = [];
  try {
    counts.push(await runVitest('TypeScript client', config('compat'), env));
  } finally {
    await server.stop();
  }
  const runtimes = {
    ANNEAL_BUN: ensureRuntime('bun', say) ?? '',
    ANNEAL_DENO: ensureRuntime('deno', say) ?? '',
  };
  counts.push(await runVitest('installed packages', config('package'), runtimes));
  const reference = ['--options', join(ROOT, 'packages/client/typedoc.json'), '--emit', 'none'];
  return [...counts, await runCheck('reference of the client', join(BIN, 'typedoc'), reference)];
}

/** The web console in a real browser, while a model trains. Without a browser this is skipped, and said. */
async function inBrowser() {
  const name = 'console in Chromium';
  const chromium = ensureChromium(say);
  if (chromium === undefined) {
    say(`SKIPPED: ${name}. Install chromium, or name a browser in ANNEAL_CHROMIUM.`);
    return [{ name, passed: 0, failed: 0, skipped: 1 }];
  }
  const server = await startServer({ flags: ['--model', MODEL] });
  try {
    const keys = ['keys', 'create', '--owner', 'nobody', '--data-dir', server.dataDir, '--json'];
    const env = {
      TINKER_BASE_URL: server.url,
      TINKER_API_KEY: server.key,
      TINKER_TELEMETRY: '0',
      ANNEAL_OTHER_KEY: JSON.parse(runCli(keys)).key,
      ANNEAL_TOKENIZER: modelFolder(),
      ANNEAL_CHROMIUM: chromium,
      BASE_MODEL: MODEL,
    };
    return [await runVitest(name, ['--config', join(ROOT, 'apps/console/vitest.browser.config.ts')], env)];
  } finally {
    await server.stop();
  }
}

/** The Python of a run's environment, which `requirements` (a path in tools/) describes. */
function pythonOf({ requirements }) {
  const name = requirements.replace(/(\/requirements)?\.txt$/, '').replaceAll('/', '-');
  return ensurePythonEnv(name, join(TOOLS, requirements), say);
}

/** Where the served checkpoint lies: the tests read its tokenizer and its weights. */
function modelFolder() {
  return JSON.parse(runCli(['model', 'inspect', MODEL, '--json'])).folder;
}

function runCli(args) {
  const result = spawnSync(process.execPath, [CLI, ...args], { encoding: 'utf8' });
  if (result.status !== 0) throw new Error(`anneal ${args[0]} ${args[1]} failed:\n${result.stderr}`);
  return result.stdout;
}

async function runSuite(name) {
  say(`suite ${name}`);
  try {
    return await SUITES[name]();
  } catch (error) {
    console.error(`suite ${name} could not run: ${error.message}`);
    return [{ name, passed: 0, failed: 1, skipped: 0 }];
  }
}

function line({ passed, failed, skipped }) {
  return `${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}`;
}

function add(a, b) {
  return { passed: a.passed + b.passed, failed: a.failed + b.failed, skipped: a.skipped + b.skipped };
}

async function main() {
  const args = process.argv.slice(2);
  const named = args.filter((arg) => arg !== '--all');
  const unknown = named.find((name) => !(name in SUITES));
  if (unknown !== undefined) {
    console.error(
      `anneal: error: no suite "${unknown}". There are: ${Object.keys(SUITES).join(', ')}; --all runs all.`,
    );
    process.exit(2);
  }
  const asked = args.includes('--all') ? Object.keys(SUITES) : named;
  const counts = [];
  for (const name of asked.length > 0 ? asked : DEFAULT_SUITES) counts.push(...(await runSuite(name)));

  // Rounding differs between processors: a failure is easier to understand when it says where it was.
  say(`results, on ${availableParallelism()} x ${cpus()[0]?.model}, ${Math.round(totalmem() / 2 ** 30)} GiB`);
  for (const count of counts) console.log(`  ${count.name}: ${line(count)}`);
  for (const failed of counts.flatMap(({ failures = [] }) => failures)) console.log(`failed: ${failed}`);
  const total = counts.reduce(add);
  process.exitCode = total.failed > 0 ? 1 : 0;
  console.log(line(total));
}

await main();

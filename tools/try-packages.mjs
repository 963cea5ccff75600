/**
 * Packs every package, installs the tarballs in an empty folder as a user would, and uses the command there:
 * `anneal --version`, `anneal doctor --json`, and `anneal serve` with a tiny model until it answers. Needs a build and a
 * TensorFlow that is set up. `node tools/try-packages.mjs [--keep]`
 */
import { execFileSync, spawn } from 'node:child_process';
import { globSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';

const ROOT = dirname(import.meta.dirname);
const TINY_MODEL = join(ROOT, 'packages', 'engine', 'fixtures', 'arch', 'llama3', 'model');
const START_LIMIT_MS = 5 * 60_000;

const say = (line) => console.log(`try-packages: ${line}`);
const run = (command, args, cwd) =>
  execFileSync(command, args, {
    cwd,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
    maxBuffer: 2 ** 26,
  });

function pack(folder) {
  const tarballs = join(folder, 'tarballs');
  mkdirSync(tarballs);
  const manifests = globSync(['packages/*/package.json', 'apps/*/package.json'], { cwd: ROOT });
  for (const path of manifests) {
    if (JSON.parse(readFileSync(join(ROOT, path), 'utf8')).private) continue;
    run('npm', ['pack', '--silent', '--pack-destination', tarballs], join(ROOT, dirname(path)));
  }
  return globSync('*.tgz', { cwd: tarballs }).map((name) => join(tarballs, name));
}

function install(folder, tarballs) {
  const project = join(folder, 'project');
  mkdirSync(project);
  writeFileSync(join(project, 'package.json'), '{ "private": true }');
  // tfjs-node-gpu's script would fetch a TensorFlow that is not used.
  const options = ['--ignore-scripts', '--prefer-offline', '--no-audit', '--no-fund', '--omit=dev'];
  run('npm', ['install', ...options, ...tarballs], project);
  return project;
}

function expect(condition, problem) {
  if (!condition) throw new Error(problem);
}

/** Starts the server on a free port, waits until it says where, asks whether it is well, and ends it. */
async function serve(project, bin) {
  const flags = ['--model', `tiny=${TINY_MODEL}`, '--port', '0', '--data-dir', join(project, 'data')];
  const child = spawn(bin, ['serve', ...flags], { cwd: project, stdio: ['ignore', 'pipe', 'inherit'] });
  const late = setTimeout(() => child.kill('SIGKILL'), START_LIMIT_MS);
  const ended = new Promise((resolve) => child.once('exit', (code, signal) => resolve(code ?? signal)));
  try {
    const url = await new Promise((resolve, reject) => {
      let output = '';
      child.stdout.on('data', (chunk) => {
        output += chunk;
        const found = /URL\s+(\S+)/.exec(output)?.[1];
        if (found) resolve(found);
      });
      void ended.then((code) => reject(new Error(`anneal serve ended with ${code}: ${output}`)));
    });
    const health = await fetch(`${url}/api/v1/healthz`);
    expect(health.ok, `healthz answers ${health.status}`);
    const console = await fetch(`${url}/`);
    expect(
      (await console.text()).includes('<div id='),
      `the console answers ${console.status} without its page`,
    );
    child.kill('SIGTERM');
    expect((await ended) === 0, `anneal serve ended with ${await ended} after SIGTERM`);
  } finally {
    clearTimeout(late);
    child.kill('SIGKILL');
  }
}

const folder = mkdtempSync(join(tmpdir(), 'anneal-packages-'));
try {
  const tarballs = pack(folder);
  say(`packed ${tarballs.length} packages`);
  const project = install(folder, tarballs);
  const bin = join(project, 'node_modules', '.bin', 'anneal');
  const { version } = JSON.parse(readFileSync(join(ROOT, 'packages/cli/package.json'), 'utf8'));
  const told = run('npx', ['--no', '--', 'anneal', '--version'], project).trim();
  expect(told.includes(version), `anneal --version says "${told}", not ${version}`);
  say(`installed; anneal --version: ${told}`);
  const report = JSON.parse(run(bin, ['doctor', '--json'], project));
  say(`anneal doctor --json: ${Object.keys(report).join(', ')}`);
  await serve(project, bin);
  say('anneal serve: answered, and ended cleanly');
} finally {
  if (!process.argv.includes('--keep')) rmSync(folder, { recursive: true, force: true });
  else say(folder);
}

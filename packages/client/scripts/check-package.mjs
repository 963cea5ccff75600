// Packs the client and what it needs, checks the tarballs, installs them in an empty project, and runs a program there
// under every runtime at hand: Node, Bun, Deno, Chromium. Usage: npm run check:package (after a build).
import { execFile, spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { ReferenceServer } from '../test/reference-server.ts';
import { runInChromium } from './run-in-chromium.mjs';

const packages = fileURLToPath(new URL('../../', import.meta.url));
const PACKED = ['types', 'tokenizer', 'client'];

function run(command, args, options = {}) {
  const { status, stdout, stderr, error } = spawnSync(command, args, { encoding: 'utf8', ...options });
  if (error || status !== 0)
    throw new Error(`${command} ${args.join(' ')}\n${error ?? ''}${stdout}${stderr}`);
  return stdout;
}

const has = (command) => spawnSync(command, ['--version']).status === 0;

/** Without stopping this process: the server that the program talks to runs in it. */
function runAside(command, args, options) {
  return new Promise((resolve, reject) => {
    execFile(command, args, options, (error, stdout, stderr) =>
      error ? reject(new Error(`${command} ${args.join(' ')}\n${stdout}${stderr}`)) : resolve(stdout),
    );
  });
}

const PROGRAM = `
import { Datum, ModelInput, ServiceClient } from '@anneal/client';
import { tensorLoss } from '@anneal/client/tfjs';
const service = new ServiceClient({ baseUrl: BASE_URL, apiKey: 'tml-test' });
const model = await service.createLoraTrainingClient({ baseModel: 'base' });
const datum = Datum.from({
  model_input: ModelInput.fromInts([1, 2]),
  loss_fn_inputs: { target_tokens: [2, 3], weights: [1, 1] },
});
const pass = model.forwardBackward([datum], 'cross_entropy');
const step = model.optimStep({ learning_rate: 0.1 });
const { metrics } = await pass;
await step;
const sampler = await model.saveWeightsAndGetSamplingClient();
const { sequences } = await sampler.sample({ prompt: [4, 5], samplingParams: { max_tokens: 2 } });
await service.close('success');
REPORT([typeof tensorLoss, metrics['loss:sum'].toFixed(1), sequences[0].tokens.join()].join(' '));
`;

const folder = mkdtempSync(join(tmpdir(), 'anneal-package-'));
const server = new ReferenceServer();
try {
  for (const name of PACKED) {
    const cwd = join(packages, name);
    run('npm', ['pack', '--pack-destination', folder], { cwd });
    const tarball = join(
      folder,
      readdirSync(folder).find((file) => file.startsWith(`anneal-${name}-`)) ?? '',
    );
    run('npx', ['publint', '--strict', tarball], { cwd });
    run('npx', ['attw', tarball, '--profile', 'esm-only'], { cwd });
    console.log(`${name}: packed and checked`);
  }
  const tarballs = readdirSync(folder).map((file) => `./${file}`);
  writeFileSync(join(folder, 'package.json'), '{"private":true,"type":"module"}');
  run('npm', ['install', '--no-audit', '--no-fund', ...tarballs], { cwd: folder });
  const baseUrl = await server.listen();
  const program = (url, report) => PROGRAM.replace('BASE_URL', url).replace('REPORT', report);
  writeFileSync(join(folder, 'program.mjs'), program(JSON.stringify(baseUrl), 'console.log'));
  writeFileSync(join(folder, 'page.mjs'), program('location.origin', 'window.report'));
  const runtimes = [
    ['node', () => runAside(process.execPath, ['program.mjs'], { cwd: folder })],
    ['bun', () => runAside('bun', ['program.mjs'], { cwd: folder })],
    ['deno', () => runAside('deno', ['run', '-A', 'program.mjs'], { cwd: folder })],
    ['chromium', () => runInChromium(join(folder, 'page.mjs'), baseUrl)],
  ];
  for (const [name, runProgram] of runtimes) {
    if (!has(name)) {
      console.log(`${name}: not installed, not tried`);
      continue;
    }
    const output = (await runProgram()).trim();
    if (output !== 'function 5.1 4,5') throw new Error(`${name} printed ${output}`);
    console.log(`${name}: runs the installed package`);
  }
} finally {
  await server.close();
  rmSync(folder, { recursive: true, force: true });
}

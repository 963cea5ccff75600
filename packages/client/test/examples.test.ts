/** The examples of the READMEs and of docs/client.md run, each block on its own, against the reference server. */
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { Tokenizer } from '@anneal/tokenizer';
import ts from 'typescript';
import { afterAll, afterEach, beforeEach, expect, test, vi } from 'vitest';
import { ServiceClient } from '../src/index.ts';
import { ReferenceServer } from './reference-server.ts';
import { datumOf } from './setup.ts';

const here = (path: string) => new URL(path, import.meta.url);
const generated = here('./.examples/');

const fixture = async (name: string) => readFile(here(`../../tokenizer/fixtures/qwen3/${name}`), 'utf8');

interface Example {
  name: string;
  code: string;
}

async function examplesOf(name: string, path: string): Promise<Example[]> {
  const markdown = await readFile(here(path), 'utf8');
  const blocks = [...markdown.matchAll(/```ts\n(.*?)```/gs)];
  return blocks.map(([, code], index) => ({ name: `${name}-${index + 1}`, code: code ?? '' }));
}

/** A module whose `run` executes the block with what earlier blocks have introduced in scope. */
function moduleOf(code: string): string {
  const imports = code.match(/^import .*;$/gm) ?? [];
  const body = code.replaceAll(/^import .*;$/gm, '');
  const source = `${imports.join('\n')}
    export async function run({ service, model, data, tokenizer, sampler }) { { ${body} } }`;
  const compilerOptions = { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ESNext };
  return ts.transpileModule(source, { compilerOptions }).outputText;
}

const examples = [
  ...(await examplesOf('readme', '../README.md')),
  ...(await examplesOf('front-page', '../../../README.md')),
  ...(await examplesOf('guide', '../../../docs/client.md')),
];

let server: ReferenceServer;

beforeEach(async () => {
  server = new ReferenceServer();
  vi.stubEnv('TINKER_BASE_URL', await server.listen());
  vi.stubEnv('TINKER_API_KEY', 'tml-test');
  const { fetch } = globalThis;
  const hub = async (url: string) => {
    const file = url.split('/').at(-1) ?? '';
    const isThere = ['tokenizer.json', 'tokenizer_config.json'].includes(file);
    return isThere ? new Response(await fixture(file)) : new Response('', { status: 404 });
  };
  vi.stubGlobal('fetch', (input: string, init: RequestInit) =>
    input.startsWith('https://huggingface.co/') ? hub(input) : fetch(input, init),
  );
});

afterEach(async () => {
  vi.unstubAllEnvs();
  vi.unstubAllGlobals();
  await server.close();
});

afterAll(() => rm(generated, { recursive: true, force: true }));

test('there are examples', () => {
  expect(examples.length).toBeGreaterThan(6);
});

test.each(examples)('$name runs', async ({ name, code }) => {
  await mkdir(generated, { recursive: true });
  const file = new URL(`${name}.mjs`, generated);
  const local = code
    .replaceAll(/'http:\/\/127\.0\.0\.1:\d+'/g, 'process.env.TINKER_BASE_URL')
    .replaceAll(/'tml-(…|\.\.\.)'/g, 'process.env.TINKER_API_KEY');
  await writeFile(file, moduleOf(local));
  const log = vi.spyOn(console, 'log').mockImplementation(() => {});
  const { run } = await import(/* @vite-ignore */ file.pathname);
  const service = new ServiceClient();
  const model = await service.createLoraTrainingClient({ baseModel: 'base' });
  const tokenizer = new Tokenizer({
    tokenizer: JSON.parse(await fixture('tokenizer.json')),
    config: JSON.parse(await fixture('tokenizer_config.json')),
  });
  const sampler = await model.saveWeightsAndGetSamplingClient();
  await run({ service, model, data: [datumOf(1, 2)], tokenizer, sampler });
  await service.close('success');
  log.mockRestore();
});

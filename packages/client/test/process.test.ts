/** A program in a process of its own: what it leaves behind neither kills it nor keeps it alive. */
import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { expect, onTestFinished, test } from 'vitest';
import { ReferenceServer } from './reference-server.ts';

const CLIENT = fileURLToPath(new URL('../src/index.ts', import.meta.url));

/** Runs a module with `service`, `model`, `sampler` and `datum` at hand; it never closes them. */
async function run(program: string) {
  const server = new ReferenceServer({ dynamicConfig: { sample_cancel_enabled: true }, sampleMs: 20 });
  const baseUrl = await server.listen();
  onTestFinished(() => server.close());
  const source = `
    import { ServiceClient } from ${JSON.stringify(CLIENT)};
    const service = new ServiceClient({ baseUrl: ${JSON.stringify(baseUrl)}, apiKey: 'tml-test', telemetry: true });
    const model = await service.createLoraTrainingClient({ baseModel: 'base' });
    const sampler = await service.createSamplingClient({ baseModel: 'base' });
    const datum = (token) => ({
      model_input: { chunks: [{ type: 'encoded_text', tokens: [token] }] },
      loss_fn_inputs: { target_tokens: [token], weights: [1] },
    });
    ${program}
    console.log('done');`;
  const args = ['--conditions=@anneal/source', '--input-type=module', '--eval', source];
  const child = spawn(process.execPath, args, { timeout: 40_000 });
  let output = '';
  child.stdout.on('data', (chunk) => (output += chunk));
  child.stderr.on('data', (chunk) => (output += chunk));
  const status = await new Promise((resolve) => child.on('close', (code, signal) => resolve(code ?? signal)));
  return { server, status, output };
}

test('a program that ends without closing its clients ends', async () => {
  const { status, output } = await run("await model.forwardBackward([datum(1)], 'cross_entropy');");
  expect([status, output]).toEqual([0, 'done\n']);
});

test('failures and cancellations that nobody awaits are no unhandled rejections', async () => {
  const { server, status, output } = await run(`
    model.forwardBackward([datum(666)], 'cross_entropy');
    model.forwardBackwardCustom([datum(1)], () => { throw new Error('broken loss'); });
    sampler.sample({ prompt: [1], samplingParams: { max_tokens: 1 } }).cancel();
    const sample = sampler.sample({ prompt: [2], samplingParams: { max_tokens: 1 } });
    sample.result({ timeout: 1 }).catch(() => {});
    const controller = new AbortController();
    service.createLoraTrainingClient({ baseModel: 'base', signal: controller.signal });
    controller.abort();
    await new Promise((resolve) => setTimeout(resolve, 100));`);
  expect([status, output]).toEqual([0, 'done\n']);
  expect(server.executed[0]).toMatchObject({ what: 'forward_backward:1' });
});

test('results that are awaited keep the process alive until they are there', async () => {
  const { status, output } = await run(`
    const calls = Array.from({ length: 20 }, (_, i) => sampler.sample({ prompt: [i], samplingParams: { max_tokens: 1 } }));
    Promise.all(calls).then((samples) => console.log(samples.length));`);
  expect([status, output]).toEqual([0, 'done\n20\n']);
});

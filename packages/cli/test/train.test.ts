import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { SpawnedServer } from '../src/bench/spawn-server.ts';
import { anneal, startServer, TINY_MODEL } from './anneal.ts';

let server: SpawnedServer;
const folder = mkdtempSync(join(tmpdir(), 'anneal-train-test-'));
beforeAll(async () => {
  server = await startServer();
});
afterAll(async () => {
  await server.stop();
  rmSync(folder, { recursive: true });
});

function write(name: string, rows: object[]): string {
  const file = join(folder, name);
  writeFileSync(file, rows.map((row) => `${JSON.stringify(row)}\n`).join(''));
  return file;
}

const conversations = () =>
  write(
    'talk.jsonl',
    ['red', 'green', 'blue', 'grey'].map((colour) => ({
      messages: [
        { role: 'user', content: `Say ${colour}.` },
        { role: 'assistant', content: 'ok' },
      ],
    })),
  );

const jsonLines = (text: string) =>
  text
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));

test('a file of conversations becomes an adapter that says what they say, and can be merged', async () => {
  const flags = ['--epochs', '15', '--batch-size', '4', '--rank', '8', '--learning-rate', '0.01', '--json'];
  const { status, stdout, stderr } = await anneal(['train', 'sft', conversations(), ...flags], { server });
  expect([status, stderr]).toEqual([0, '']);
  const lines = jsonLines(stdout);
  expect(lines.slice(0, -1).map(({ step }) => step)).toEqual(Array.from({ length: 15 }, (_, at) => at + 1));
  // A random model of 368 tokens begins near ln 368 a token.
  expect(lines[0].loss).toBeGreaterThan(4);
  expect(lines[14].loss).toBeLessThan(0.5);
  const { path, state, steps, run } = lines[15];
  expect([path, state, steps]).toEqual([
    expect.stringMatching(/^tinker:\/\/.*sampler_weights\/talk$/),
    expect.stringMatching(/^tinker:\/\/.*\/weights\/talk$/),
    15,
  ]);
  const chat = ['chat', '--model', path, '--temperature', '0', '--max-tokens', '8'];
  expect(await anneal(chat, { server, input: 'Say blue.' })).toMatchObject({ status: 0, stdout: 'ok\n' });
  const metrics = await anneal(['run', 'metrics', run, '--after', '12', '--json'], { server });
  const shown = JSON.parse(metrics.stdout);
  expect(shown.steps).toEqual([13, 14, 15]);
  expect(shown.series['loss:sum'][2]).toBeCloseTo(lines[14].loss, 5);
  const table = await anneal(['run', 'metrics', run], { server });
  expect(table.stdout.split('\n')[0]).toMatch(/^step +time .*loss:sum/);
  expect(table.stdout.trim().split('\n')).toHaveLength(16);
  const logged = await anneal(['run', 'logs', run, '--json'], { server });
  const calls = jsonLines(logged.stdout);
  const kinds = (kind: string) => calls.filter((call) => call.kind === kind);
  expect([kinds('forward_backward').length, kinds('optim_step').length]).toEqual([15, 15]);
  const passes = kinds('forward_backward');
  expect(passes[14]).toMatchObject({ state: 'done', sequences: 4, loss_fn: 'cross_entropy' });
  expect(passes[14].metrics['loss:sum']).toBeCloseTo(lines[14].loss, 5);
  expect(passes[14].ended_at).toBeGreaterThanOrEqual(passes[14].started_at);
  const tail = await anneal(['run', 'logs', run, '--tail', '2', '--follow'], { server });
  expect(tail.stdout.trim().split('\n')).toEqual([
    expect.stringMatching(/^20\S+Z {2}save_weights +#\d+ {2}\d+\.\d\d s/),
    expect.stringMatching(/ {2}save_weights_for_sampler /),
  ]);
  const unknown = await anneal(['run', 'metrics', 'nobody'], { server });
  expect(unknown).toMatchObject({ status: 1, stdout: '' });
  expect(unknown.stderr).toMatch(/^anneal: error: .*nobody.*\n$/);
  const output = join(folder, 'merged');
  const merge = ['checkpoint', 'merge', path, '--model', TINY_MODEL, '--output', output, '--json'];
  const merged = await anneal(merge, { server });
  expect(merged).toMatchObject({ status: 0, stderr: '' });
  expect(JSON.parse(merged.stdout)).toMatchObject({ folder: output, merged: 22 });
  expect(existsSync(join(output, 'tokenizer.json'))).toBe(true);
}, 200_000);

test('pairs are told apart after training on them', async () => {
  const rows = ['one', 'two', 'six', 'ten'].map((prompt) => ({ prompt, chosen: 'yes', rejected: 'no' }));
  const flags = ['--epochs', '10', '--batch-size', '4', '--learning-rate', '0.005', '--json'];
  const { status, stdout } = await anneal(['train', 'dpo', write('pairs.jsonl', rows), ...flags], { server });
  const lines = jsonLines(stdout);
  expect(status).toBe(0);
  // Before the first step the model is the base model: log 2 a pair.
  expect(lines[0].loss).toBeCloseTo(Math.LN2, 4);
  expect(lines[9].loss).toBeLessThan(0.5);
  expect(lines[9].accuracy).toBe(1);
}, 120_000);

test('an interrupted training goes on where it ended', async () => {
  const file = conversations();
  const flags = ['--epochs', '10', '--batch-size', '1', '--json'];
  const begun = await anneal(['train', 'sft', file, '--rank', '4', ...flags], {
    server,
    interruptAt: '"step":3,',
  });
  expect(begun.status).toBe(130);
  const { steps, state, interrupted } = jsonLines(begun.stdout).at(-1);
  expect(interrupted).toBe(true);
  expect(steps).toBeGreaterThanOrEqual(3);
  expect(steps).toBeLessThan(40);
  const resumed = await anneal(['train', 'sft', file, ...flags, '--resume', state], { server });
  expect(resumed.status).toBe(0);
  const lines = jsonLines(resumed.stdout);
  expect(lines[0].step).toBe(steps + 1);
  expect(lines.at(-1)).toMatchObject({ steps: 40, interrupted: false });
  const other = write(
    'other.jsonl',
    readFileSync(file, 'utf8')
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line.replace('Say', 'Now say'))),
  );
  const anew = await anneal(['train', 'sft', other, ...flags, '--resume', state], { server });
  expect(jsonLines(anew.stdout)[0].step).toBe(1);
  const rank = await anneal(['train', 'sft', file, '--resume', state, '--rank', '8'], { server });
  expect(rank).toMatchObject({ status: 2, stdout: '' });
}, 120_000);

test('a training that dies goes on from the latest of its saves', async () => {
  const file = conversations();
  const flags = ['--epochs', '10', '--batch-size', '1', '--save-every', '4', '--json'];
  const begun = await anneal(['train', 'sft', file, '--rank', '4', ...flags], {
    server,
    killAt: '"step":9,',
  });
  expect(begun.status).toBeNull();
  const saves = jsonLines(begun.stdout.slice(0, begun.stdout.lastIndexOf('\n'))).filter(({ state }) => state);
  expect(saves.map(({ step }) => step)).toEqual([4, 8]);
  const { state } = saves[1];
  const run = state.split('/')[2];
  const listed = await anneal(['checkpoint', 'list', '--run', run, '--json'], { server });
  const paths = JSON.parse(listed.stdout).checkpoints.map(
    ({ tinker_path }: { tinker_path: string }) => tinker_path,
  );
  expect(paths).toEqual([state]);
  const resumed = await anneal(['train', 'sft', file, ...flags, '--resume', state], { server });
  expect([resumed.status, resumed.stderr]).toEqual([0, '']);
  const lines = jsonLines(resumed.stdout);
  expect(lines[0].step).toBe(9);
  expect(lines.at(-1)).toMatchObject({ steps: 40, interrupted: false });
  const kept = await anneal(['checkpoint', 'list', '--run', lines.at(-1).run, '--json'], { server });
  const ids = JSON.parse(kept.stdout).checkpoints.map(
    ({ checkpoint_id }: { checkpoint_id: string }) => checkpoint_id,
  );
  expect(ids.sort()).toEqual(['sampler_weights/talk', 'weights/talk']);
}, 120_000);

test('data that cannot be trained on is refused with its line', async () => {
  const bad = write('bad.jsonl', [{ messages: [{ role: 'user', content: 'Hello' }] }]);
  const none = await anneal(['train', 'sft', bad], { server });
  expect(none).toMatchObject({ status: 2, stdout: '' });
  expect(none.stderr).toMatch(/bad\.jsonl:1: there is no assistant message to train on\n$/);
  const wrong = await anneal(['train', 'dpo', bad], { server });
  expect(wrong).toMatchObject({ status: 2 });
  expect(wrong.stderr).toMatch(/bad\.jsonl:1: prompt: /);
}, 120_000);

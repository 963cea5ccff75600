/** Sampling where most layers have a state: rows of different lengths, pieces, kept prompts, and what is left behind. */
import { tf } from '@anneal/tensorflow';
import { afterAll, expect, test } from 'vitest';
import type { SampleRequest, SampleResult } from '../engine.ts';
import { BaseModel } from '../models/base-model.ts';
import { archFixture } from '../testing/fixtures.ts';
import '../testing/tensorflow.ts';
import { HeadPass } from '../training/head-pass.ts';
import { Sampler, type SamplerOptions } from './sampler.ts';

const fixture = archFixture('qwen3_5');
const base = BaseModel.load(fixture.modelDir, 'fp32');
const { greedy, sequences } = fixture.reference;
const long = sequences[2]!.tokens;

afterAll(() => base.dispose());

const newSampler = (options: Partial<SamplerOptions> = {}) =>
  new Sampler(base, new HeadPass(base), {
    maxSlots: 8,
    kvBudgetBytes: 1e9,
    prefillTokens: 1024,
    xla: false,
    tokenizer: () => {
      throw new Error('no stop strings here');
    },
    ...options,
  });

const request = (prompt: number[], maxTokens = 12, rest: Partial<SampleRequest> = {}): SampleRequest => ({
  samplerId: 's',
  prompt: Int32Array.from(prompt),
  numSamples: 1,
  params: { maxTokens, temperature: 0, topK: -1, topP: 1, stop: { tokenIds: [], strings: [] } },
  promptLogprobs: false,
  topkPromptLogprobs: 0,
  topkSampleLogprobs: 0,
  promptAltTokensK: 0,
  ...rest,
});

async function run(sampler: Sampler, requests: SampleRequest[]): Promise<SampleResult[]> {
  const results = requests.map((one) => sampler.submit(one, undefined));
  while (sampler.hasWork) sampler.work();
  return Promise.all(results);
}

function expectSame(found: SampleResult, want: SampleResult): void {
  expect([...found.sequences[0]!.tokens]).toEqual([...want.sequences[0]!.tokens]);
  found.sequences[0]!.logprobs.forEach((value, i) => {
    expect(Math.abs(value - want.sequences[0]!.logprobs[i]!)).toBeLessThan(1e-4);
  });
}

test('a prompt that is padded beside longer ones gives what it gives alone', async () => {
  // 2 is shorter than the convolution, and all are padded to 16.
  const prompts = [2, 9, 15, 16].map((length) => long.slice(0, length));
  const together = await run(
    newSampler(),
    prompts.map((prompt) => request(prompt)),
  );
  for (const [i, prompt] of prompts.entries()) {
    // In pieces of the prompt's own length there is nothing before and in pieces of 1 everything is a state.
    const [alone] = await run(newSampler({ pieceTokens: 1 }), [request(prompt)]);
    expectSame(together[i]!, alone!);
  }
});

test('a prompt longer than a chunk goes in pieces with the same scores', async () => {
  const ask = request(long, 20, { promptLogprobs: true });
  const [whole] = await run(newSampler(), [ask]);
  const [pieces] = await run(newSampler({ pieceTokens: 7 }), [ask]);
  expectSame(pieces!, whole!);
  pieces!.promptLogprobs!.forEach((value, i) => {
    if (i > 0) expect(Math.abs(value - whole!.promptLogprobs![i]!)).toBeLessThan(1e-4);
  });
});

test('sequences that join and leave keep their states', async () => {
  const sampler = newSampler();
  const first = sampler.submit(request(greedy.prompt, greedy.tokens.length), undefined);
  const short = sampler.submit(request(long.slice(0, 5), 3), undefined);
  for (let i = 0; i < 3; i++) sampler.work();
  const late = sampler.submit(request(greedy.prompt, greedy.tokens.length), undefined);
  while (sampler.hasWork) sampler.work();
  await short;
  for (const result of [first, late]) expect([...(await result).sequences[0]!.tokens]).toEqual(greedy.tokens);
});

test('a kept conversation serves what begins with all of it, and nothing that leaves it earlier', async () => {
  const sampler = newSampler();
  const start = long.slice(0, 40);
  const [turn] = await run(sampler, [request(start, 6)]);
  const conversation = [...start, ...turn!.sequences[0]!.tokens];
  for (const { prompt, hit } of [
    { prompt: [...conversation, ...long.slice(50, 60)], hit: conversation.length - 1 },
    { prompt: [...start, 3, 4, 5, 6, 7], hit: start.length },
    { prompt: [...start.slice(0, 38), 3, 4, 5], hit: 0 },
    { prompt: start, hit: 0 },
  ]) {
    const [found] = await run(sampler, [request(prompt)]);
    const [computed] = await run(newSampler(), [request(prompt)]);
    expect(found!.promptCacheHitTokens).toBe(hit);
    expectSame(found!, computed!);
  }
});

test('nothing is left behind', async () => {
  const sampler = newSampler({ pieceTokens: 30, prefixBudgetBytes: 300_000 });
  const work = () =>
    run(sampler, [
      request(greedy.prompt, 20),
      request(long, 5, { promptLogprobs: true }),
      request(long.slice(0, 33), 18, { numSamples: 3 }),
    ]);
  await work();
  await work();
  const before = tf.memory().numTensors;
  for (let i = 0; i < 4; i++) await work();
  expect(tf.memory().numTensors).toBe(before);
});

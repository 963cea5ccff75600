import { tf } from '@anneal/tensorflow';
import { loadTokenizer } from '@anneal/tokenizer/node';
import { expect, test } from 'vitest';
import type { SampleRequest, SampleResult, SamplingParams } from '../engine.ts';
import { BaseModel } from '../models/base-model.ts';
import { archFixture } from '../testing/fixtures.ts';
import '../testing/tensorflow.ts';
import { LoraAdapter } from '../lora/adapter.ts';
import { loraSpec } from '../testing/fixtures.ts';
import { HeadPass } from '../training/head-pass.ts';
import { cacheBytes } from './kv-cache.ts';
import { Sampler, type SamplerOptions } from './sampler.ts';

const fixture = archFixture('llama3');
const base = BaseModel.load(fixture.modelDir, 'fp32');
const tokenizer = await loadTokenizer(fixture.modelDir);
const newSampler = (maxSlots = 8, options: Partial<SamplerOptions> = {}) =>
  new Sampler(base, new HeadPass(base), {
    maxSlots,
    kvBudgetBytes: 1e9,
    ...options,
    prefillTokens: 256,
    xla: false,
    tokenizer: () => tokenizer,
  });
const request = (
  prompt: number[],
  params: Partial<SamplingParams> = {},
  rest: Partial<SampleRequest> = {},
): SampleRequest => ({
  samplerId: 's',
  prompt: Int32Array.from(prompt),
  numSamples: 1,
  params: { maxTokens: 8, temperature: 0, topK: -1, topP: 1, stop: { tokenIds: [], strings: [] }, ...params },
  promptLogprobs: false,
  topkPromptLogprobs: 0,
  topkSampleLogprobs: 0,
  promptAltTokensK: 0,
  ...rest,
});
async function finish<T>(sampler: Sampler, results: Promise<T>[]): Promise<T[]> {
  while (sampler.hasWork) sampler.work();
  return Promise.all(results);
}
const { greedy, sequences } = fixture.reference;

test('greedy tokens equal the reference, alone and among neighbours that come and go', async () => {
  const sampler = newSampler();
  const wanted = greedy.tokens.length;
  const [alone] = await finish(sampler, [
    sampler.submit(request(greedy.prompt, { maxTokens: wanted }), undefined),
  ]);
  expect([...alone!.sequences[0]!.tokens]).toEqual(greedy.tokens);
  const mixed = [
    sampler.submit(request(greedy.prompt.slice(0, 3), { maxTokens: 2, temperature: 1, seed: 1n }), undefined),
    sampler.submit(request(greedy.prompt, { maxTokens: wanted }), undefined),
    sampler.submit(
      request(sequences[2]!.tokens, { maxTokens: 40, temperature: 1, seed: 2n }, { numSamples: 3 }),
      undefined,
    ),
  ];
  sampler.work();
  sampler.work();
  mixed.push(sampler.submit(request(greedy.prompt, { maxTokens: wanted }), undefined));
  const all = await finish(sampler, mixed);
  expect([...all[1]!.sequences[0]!.tokens]).toEqual(greedy.tokens);
  expect([...all[3]!.sequences[0]!.tokens]).toEqual(greedy.tokens);
});

test('the use of the cache follows the sequences that run; prompts that are kept are told apart', async () => {
  const sampler = newSampler();
  const idle = { bytes: 0, tokens: 0, limitBytes: 1e9, prefixLimitBytes: 2 ** 28 };
  expect(sampler.cacheUse).toEqual({ ...idle, prefixBytes: 0 });
  const prompt = Array.from({ length: 40 }, (_, at) => 5 + at);
  const result = sampler.submit(request(prompt, { maxTokens: 6 }, { numSamples: 2 }), undefined);
  sampler.work();
  expect(sampler.cacheUse.tokens).toBe(2 * 40);
  sampler.work();
  const running = sampler.cacheUse;
  expect(running.tokens).toBe(2 * 41);
  // Three layers of two heads, keys and values of 16 dimensions, in float32.
  const perPosition = 3 * 2 * (16 + 16) * 4;
  expect(running.bytes % perPosition).toBe(0);
  expect(running.bytes).toBeGreaterThanOrEqual(running.tokens * perPosition);
  await finish(sampler, [result]);
  expect(sampler.cacheUse).toMatchObject(idle);
  expect(sampler.cacheUse.prefixBytes).toBeGreaterThanOrEqual(40 * perPosition);
});

test('decoded logprobs equal scoring the same tokens as a prompt, past the recent window', async () => {
  const sampler = newSampler();
  const [sampled] = await finish(sampler, [
    sampler.submit(request(greedy.prompt, { maxTokens: 45, temperature: 1, seed: 5n }), undefined),
  ]);
  const { tokens, logprobs } = sampled!.sequences[0]!;
  const [scored] = await finish(sampler, [
    sampler.submit(
      request([...greedy.prompt, ...tokens], { maxTokens: 1 }, { promptLogprobs: true }),
      undefined,
    ),
  ]);
  tokens.forEach((_, i) => {
    expect(Math.abs(logprobs[i]! - scored!.promptLogprobs![greedy.prompt.length + i]!)).toBeLessThan(1e-4);
  });
});

test('adapters in one batch give what each gives alone', async () => {
  const adapter = (seed: bigint, rank: number) =>
    LoraAdapter.from(base, loraSpec({ rank, trainUnembed: rank === 8 }), ({ inFeatures, outFeatures }) => ({
      a: Float32Array.from({ length: rank * inFeatures }, (_, i) => Math.sin(i + Number(seed)) / 8),
      b: Float32Array.from({ length: rank * outFeatures }, (_, i) => Math.cos(i * 3 + Number(seed)) / 16),
    }));
  const adapters = [undefined, adapter(1n, 4), adapter(2n, 8)];
  const params = { maxTokens: 20 };
  const alone: SampleResult[] = [];
  for (const one of adapters) {
    const sampler = newSampler();
    alone.push(...(await finish(sampler, [sampler.submit(request(greedy.prompt, params), one)])));
  }
  const sampler = newSampler();
  const together = await finish(
    sampler,
    adapters.map((one) => sampler.submit(request(greedy.prompt, params), one)),
  );
  together.forEach((result, i) => {
    expect([...result.sequences[0]!.tokens]).toEqual([...alone[i]!.sequences[0]!.tokens]);
  });
  expect(new Set(together.map((r) => r.sequences[0]!.tokens.join())).size).toBe(3);
});

test('prompts of several adapters and lengths begin together', () => {
  const sampler = newSampler();
  const adapter = LoraAdapter.create(base, loraSpec());
  for (const [length, owner] of [
    [5, undefined],
    [40, adapter],
    [17, adapter],
  ] as const)
    sampler.submit(request(sequences[2]!.tokens.slice(0, length)), owner).catch(() => {});
  sampler.work();
  expect(sampler.activeSequences).toBe(3);
  sampler.dispose();
  adapter.dispose();
});

test('a short prompt waits where a long one leaves no memory for two of its length', async () => {
  // Two slots of 48 positions do not fit; one of 64, which the long prompt takes, does.
  const sampler = newSampler(8, { kvBudgetBytes: cacheBytes(base.cacheShapes(), 2, 48) - 1 });
  const long = sampler.submit(request(sequences[2]!.tokens.slice(0, 40)), undefined);
  const short = sampler.submit(request(sequences[2]!.tokens.slice(0, 5)), undefined);
  while (sampler.hasWork) {
    sampler.work();
    expect(sampler.activeSequences).toBeLessThan(2);
  }
  expect((await Promise.all([long, short])).map(({ sequences: [own] }) => own!.tokens.length)).toEqual([
    8, 8,
  ]);
});

test('a group repeats with its seed, its members differ, and slots beyond the limit wait', async () => {
  const sampler = newSampler(2);
  const group = () =>
    sampler.submit(
      request(greedy.prompt, { maxTokens: 6, temperature: 1, seed: 9n }, { numSamples: 5 }),
      undefined,
    );
  const [first, second] = await finish(sampler, [group(), group()]);
  const texts = first!.sequences.map(({ tokens }) => tokens.join());
  expect(new Set(texts).size).toBe(5);
  expect(second!.sequences.map(({ tokens }) => tokens.join())).toEqual(texts);
});

test('sampling leaves no tensors behind', async () => {
  const sampler = newSampler();
  const run = () =>
    finish(sampler, [
      sampler.submit(
        request(greedy.prompt, { temperature: 1, topP: 0.5, maxTokens: 20 }, { numSamples: 3 }),
        undefined,
      ),
      sampler.submit(
        request(
          greedy.prompt,
          { maxTokens: 1 },
          { promptLogprobs: true, topkPromptLogprobs: 3, promptAltTokensK: 2 },
        ),
        undefined,
      ),
    ]);
  await run();
  const before = tf.memory().numTensors;
  for (let i = 0; i < 5; i++) await run();
  expect(tf.memory().numTensors).toBe(before);
});

test('a prompt in pieces gives the same texts and scores, and others decode in between', async () => {
  const long = request(sequences[2]!.tokens, { maxTokens: 9 }, { promptLogprobs: true });
  const undivided = newSampler();
  const [whole] = await finish(undivided, [undivided.submit(long, undefined)]);
  const sampler = newSampler(8, { pieceTokens: 16 });
  const short = sampler.submit(request(greedy.prompt.slice(0, 5), { maxTokens: 30 }), undefined);
  while (sampler.activeSequences === 0) sampler.work();
  const before = sampler.sampledTokens;
  const late = sampler.submit(long, undefined);
  while (sampler.activeSequences === 1) sampler.work();
  expect(sampler.sampledTokens - before).toBeGreaterThan(3);
  const [, pieces] = await finish(sampler, [short, late]);
  expect([...pieces!.sequences[0]!.tokens]).toEqual([...whole!.sequences[0]!.tokens]);
  pieces!.promptLogprobs!.forEach((value, i) => {
    if (i > 0) expect(Math.abs(value - whole!.promptLogprobs![i]!)).toBeLessThan(1e-5);
  });
});

test('a prompt that begins like an earlier conversation computes only the rest, with the same adapter only', async () => {
  const adapter = LoraAdapter.create(base, loraSpec({ rank: 4, trainUnembed: false }));
  const sampler = newSampler();
  const first = sequences[2]!.tokens.slice(0, 50);
  const [turn] = await finish(sampler, [sampler.submit(request(first, { maxTokens: 6 }), undefined)]);
  const next = [...first, ...turn!.sequences[0]!.tokens, ...sequences[2]!.tokens.slice(50, 60)];
  const ask = request(next, { maxTokens: 8 });
  const [again] = await finish(sampler, [sampler.submit(ask, undefined)]);
  // The last token that was drawn has not been through the layers.
  expect(again!.promptCacheHitTokens).toBe(first.length + turn!.sequences[0]!.tokens.length - 1);
  const cold = newSampler();
  const [computed] = await finish(cold, [cold.submit(ask, undefined)]);
  expect(computed!.promptCacheHitTokens).toBe(0);
  expect([...again!.sequences[0]!.tokens]).toEqual([...computed!.sequences[0]!.tokens]);
  again!.sequences[0]!.logprobs.forEach((value, i) => {
    expect(Math.abs(value - computed!.sequences[0]!.logprobs[i]!)).toBeLessThan(1e-5);
  });
  const [other] = await finish(sampler, [sampler.submit(ask, adapter)]);
  expect(other!.promptCacheHitTokens).toBe(0);
  await sampler.whenUnused(adapter);
  adapter.dispose();
});

test('equal prompts that come together are computed once', async () => {
  const sampler = newSampler();
  const prompt = sequences[2]!.tokens.slice(0, 64);
  const results = await finish(
    sampler,
    [1n, 2n, 3n, 4n].map((seed) =>
      sampler.submit(request(prompt, { maxTokens: 4, temperature: 1, seed }), undefined),
    ),
  );
  expect(results.map(({ promptCacheHitTokens }) => promptCacheHitTokens)).toEqual([0, 63, 63, 63]);
});

test('kept prompts take no more than their budget', async () => {
  const { numLayers, numKvHeads, headDim } = base.config;
  const perPrompt = 64 * numLayers * 2 * numKvHeads * headDim * 4;
  const sampler = newSampler(8, { prefixBudgetBytes: 2.5 * perPrompt });
  const prompts = [0, 1, 2].map((i) => [i + 3, ...sequences[2]!.tokens.slice(0, 60)]);
  for (const prompt of [...prompts, prompts[0]!, prompts[2]!])
    await finish(sampler, [sampler.submit(request(prompt, { maxTokens: 1 }), undefined)]);
  const again = async (prompt: number[]) => {
    const ask = sampler.submit(request([...prompt, 7], { maxTokens: 1 }), undefined);
    const [result] = await finish(sampler, [ask]);
    return result!.promptCacheHitTokens;
  };
  expect(await again(prompts[2]!)).toBe(61);
  expect(await again(prompts[1]!)).toBe(0);
});

test('a single prompt does not wait for all of another client’s', async () => {
  const sampler = newSampler(2);
  const ended: string[] = [];
  const ask = (samplerId: string, i: number) =>
    sampler
      .submit(request([i + 3, ...greedy.prompt], { maxTokens: 3, temperature: 1 }, { samplerId }), undefined)
      .then(() => ended.push(samplerId));
  const many = Array.from({ length: 12 }, (_, i) => ask('busy', i));
  while (ended.length === 0) {
    sampler.work();
    await Promise.resolve();
  }
  const single = ask('other', 50);
  await finish(sampler, [...many, single]);
  expect(ended.indexOf('other')).toBeLessThan(6);
});

test('joined adapters are freed, and joined again when the batch has others', async () => {
  const adapters = [4, 8].map((rank) =>
    LoraAdapter.create(base, loraSpec({ rank, trainUnembed: rank === 8 })),
  );
  const sampler = newSampler(4, { prefixBudgetBytes: 0 });
  const run = (rows: (LoraAdapter | undefined)[]) =>
    finish(
      sampler,
      rows.map((row, i) =>
        sampler.submit(request([i + 3, ...greedy.prompt], { maxTokens: 20 + 9 * i }), row),
      ),
    );
  const both = async () => {
    await run([adapters[0], adapters[1], undefined]);
    await run([undefined, adapters[1]]);
  };
  await both();
  const before = tf.memory().numTensors;
  for (let i = 0; i < 3; i++) await both();
  expect(tf.memory().numTensors).toBe(before);
});

/** Sampling: greedy, from frozen copies of LoRA models. */
import { type BenchCase, type OpenCase, timed, tooLong } from './bench-case.ts';
import { randomSequences } from './random-tokens.ts';
import type { BenchModel, BenchSampler, Subject } from './subject.ts';
import { createModels } from './training-cases.ts';

/** Adapters in a batch of mixed ones: as many as there are sequences, up to this. */
const MOST_ADAPTERS = 8;
const PROMPT = 32;
const NEW_TOKENS = 64;

export const samplingCases: BenchCase[] = [
  decode(1, 'one'),
  decode(8, 'one'),
  decode(8, 'mixed'),
  decode(32, 'one'),
  decode(32, 'mixed'),
  prefill(1, 512),
  prefill(8, 256),
  firstToken(32, 1),
  firstToken(512, 1),
  firstToken(512, 16),
  {
    id: 'latency/one-token',
    title: `sample of 1 token after ${PROMPT}`,
    skip: tooLong(PROMPT + 1),
    open: (subject) =>
      withSampler(subject, async (sampler, seed) => {
        const [prompt] = randomSequences([PROMPT], seed, subject.vocabSize);
        const work = () => sampler.generate({ prompt: prompt!, numSamples: 1, maxTokens: 1 });
        return { seconds: await timed(work), tokens: 0 };
      }),
  },
  {
    id: 'latency/logprobs-256',
    title: 'logprobs of a prompt of 256 tokens',
    skip: tooLong(257),
    open: (subject) =>
      withSampler(subject, async (sampler, seed) => {
        const [prompt] = randomSequences([256], seed, subject.vocabSize);
        const work = () =>
          sampler.generate({ prompt: prompt!, numSamples: 1, maxTokens: 1, promptLogprobs: true });
        return { seconds: await timed(work), tokens: 0 };
      }),
  },
];

function decode(batch: number, adapters: 'one' | 'mixed'): BenchCase {
  const which = batch === 1 ? '' : adapters === 'one' ? ', one adapter' : ', mixed adapters';
  return {
    id: batch === 1 ? 'decode/1' : `decode/${batch}/${adapters}`,
    title: `${batch} sequence${batch > 1 ? 's' : ''} of ${PROMPT} + ${NEW_TOKENS} tokens${which}`,
    skip: tooLong(PROMPT + NEW_TOKENS),
    open: async (subject) => {
      const samplers = await openSamplers(subject, adapters === 'one' ? 1 : Math.min(batch, MOST_ADAPTERS));
      return {
        run: async (seed) => {
          const prompts = randomSequences(new Array(batch).fill(PROMPT), seed, subject.vocabSize);
          return generateTogether(subject, samplers, prompts, NEW_TOKENS);
        },
        close: () => closeAll(samplers),
      };
    },
  };
}

/** What one run of {@link generateTogether} took: `seconds` and `tokens` are those of decoding where tokens are streamed. */
export interface Generation {
  seconds: number;
  tokens: number;
  parts: Record<string, number>;
}

/**
 * Samples all prompts at once, prompt i from sampler i modulo their number.
 *
 * Where tokens are streamed, decoding is timed from the moment at which every sequence has its first token to the last
 * token; prompts are then `parts.firstTokens`. Elsewhere the whole is timed.
 */
export async function generateTogether(
  subject: Subject,
  samplers: BenchSampler[],
  prompts: Int32Array[],
  maxTokens: number,
): Promise<Generation> {
  const start = performance.now();
  const waiting = new Set(prompts);
  let drawnUntilThen = 0;
  let allStarted = start;
  const counts = await Promise.all(
    prompts.map((prompt, i) => {
      const onToken = () => {
        if (waiting.size > 0) drawnUntilThen++;
        if (waiting.delete(prompt) && waiting.size === 0) allStarted = performance.now();
      };
      return samplers[i % samplers.length]!.generate({
        prompt,
        numSamples: 1,
        maxTokens,
        ...(subject.streams ? { onToken } : {}),
      });
    }),
  );
  const total = (performance.now() - start) / 1000;
  const tokens = counts.reduce((sum, count) => sum + count, 0);
  if (!subject.streams) return { seconds: total, tokens, parts: { total } };
  const firstTokens = (allStarted - start) / 1000;
  return {
    seconds: total - firstTokens,
    tokens: tokens - drawnUntilThen,
    parts: { total, firstTokens },
  };
}

function prefill(batch: number, length: number): BenchCase {
  return {
    id: `prefill/${batch}x${length}`,
    title: `${batch} prompt${batch > 1 ? 's' : ''} of ${length} tokens, 1 token each`,
    skip: tooLong(length + 1),
    open: (subject) =>
      withSampler(subject, async (sampler, seed) => {
        const prompts = randomSequences(new Array(batch).fill(length), seed, subject.vocabSize);
        const work = () =>
          Promise.all(prompts.map((prompt) => sampler.generate({ prompt, numSamples: 1, maxTokens: 1 })));
        return { seconds: await timed(work), tokens: batch * length };
      }),
  };
}

/** Time until each of the samples of one prompt has its first token. */
function firstToken(length: number, samples: number): BenchCase {
  return {
    id: `first-token/${length}${samples > 1 ? `x${samples}` : ''}`,
    title: `${samples > 1 ? `all first tokens of ${samples} samples` : 'first token'} after ${length} tokens`,
    skip: (subject) => (subject.streams ? tooLong(length + 2)(subject) : 'the API shows whole answers only'),
    open: (subject) =>
      withSampler(subject, async (sampler, seed) => {
        const [prompt] = randomSequences([length], seed, subject.vocabSize);
        const seen = new Set<number>();
        const start = performance.now();
        let seconds = 0;
        await sampler.generate({
          prompt: prompt!,
          numSamples: samples,
          maxTokens: 2,
          onToken: (sequence) => {
            seen.add(sequence);
            if (seen.size === samples && seconds === 0) seconds = (performance.now() - start) / 1000;
          },
        });
        return { seconds, tokens: 0 };
      }),
  };
}

interface OwnedSampler extends BenchSampler {
  model: BenchModel;
}

/** Samplers of as many models, trained by nobody: their speed is that of any weights. */
export async function openSamplers(subject: Subject, count: number): Promise<OwnedSampler[]> {
  const models = await createModels(subject, count);
  return Promise.all(models.map(async (model) => ({ ...(await model.sampler()), model })));
}

export async function closeAll(samplers: OwnedSampler[]): Promise<void> {
  for (const sampler of samplers) {
    await sampler.close();
    await sampler.model.close();
  }
}

async function withSampler(
  subject: Subject,
  run: (sampler: BenchSampler, seed: number) => ReturnType<OpenCase['run']>,
): Promise<OpenCase> {
  const samplers = await openSamplers(subject, 1);
  return { run: (seed) => run(samplers[0]!, seed), close: () => closeAll(samplers) };
}

/**
 * Reinforcement learning (GRPO): the model learns to answer sums in the asked form from a reward alone.
 *
 *     export TINKER_BASE_URL=http://127.0.0.1:8123 TINKER_API_KEY=tml-...
 *     node examples/grpo-arithmetic.ts
 *
 * Each step samples a group of answers per question, scores them, and pushes towards those above their group's mean. Credit for answers
 * that are nearly right keeps groups from agreeing early on one wrong answer, which would teach nothing.
 * The prompt shows one solved sum, since a form that is never sampled can never be rewarded. Prints the mean reward of
 * every step, which rises, if not at each step.
 */
import { Datum, ModelInput, ServiceClient } from '@anneal/client';
import type { Tokenizer } from '@anneal/tokenizer';
import {
  answerTokens,
  BASE_MODEL,
  batchOf,
  commandLine,
  encode,
  endTokens,
  type Message,
  promptTokens,
  readJsonl,
  textOf,
  tokenizerOf,
} from './common.ts';

interface Row {
  prompt: [Message];
  answer: string;
  task: string;
}

const options = commandLine({
  steps: 20,
  questions: 8,
  group: 8,
  'max-tokens': 8,
  'learning-rate': 2e-4,
  seed: 1,
});

function fewShotPrompt(tokenizer: Tokenizer, question: string): number[] {
  return [
    ...promptTokens(tokenizer, 'Compute 14 + 23. Answer with the number in brackets.'),
    ...answerTokens(tokenizer, '[37]'),
    ...encode(tokenizer, '\n'),
    ...promptTokens(tokenizer, question),
  ];
}

/** 1 for the right answer. On the way some credit for a number in brackets, and more for one that is closer. */
function reward(answer: string, expected: string): number {
  const [, number] = /^\[(-?\d+)\]$/.exec(answer.trim()) ?? [];
  if (number === undefined) return 0;
  const error = Math.abs(Number(number) - Number(expected.replace(/[[\]]/g, '')));
  return error === 0 ? 1 : 0.2 + 0.5 * 0.9 ** error;
}

/** Targets of prompt and answer; positions of the prompt have no advantage, and so no gradient. */
function rolloutDatum(prompt: number[], sample: number[], logprobs: number[], advantage: number): Datum {
  const tokens = [...prompt, ...sample];
  const skipped = Array<number>(prompt.length - 1).fill(0);
  return Datum.from({
    model_input: ModelInput.fromInts(tokens.slice(0, -1)),
    loss_fn_inputs: {
      target_tokens: tokens.slice(1),
      logprobs: [...skipped, ...logprobs],
      advantages: [...skipped, ...sample.map(() => advantage)],
    },
  });
}

const mean = (values: number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;

const service = new ServiceClient();
const model = await service.createLoraTrainingClient({ baseModel: BASE_MODEL, rank: 16, seed: options.seed });
const tokenizer = await tokenizerOf(model);
const rows = readJsonl<Row>('rl.jsonl').filter(({ task }) => task === 'arithmetic');
const samplingParams = { max_tokens: options['max-tokens'], temperature: 1, stop: endTokens(tokenizer) };

for (let step = 0; step < options.steps; step++) {
  const sampler = await model.saveWeightsAndGetSamplingClient();
  const groups = batchOf(rows, step, options.questions).map((row) => {
    const prompt = fewShotPrompt(tokenizer, row.prompt[0].content);
    return { row, prompt, result: sampler.sample({ prompt, numSamples: options.group, samplingParams }) };
  });
  const data: Datum[] = [];
  const rewards: number[] = [];
  for (const { row, prompt, result } of groups) {
    const { sequences } = await result;
    const scores = sequences.map(({ tokens }) => reward(textOf(tokenizer, tokens), row.answer));
    const spread = Math.sqrt(mean(scores.map((score) => (score - mean(scores)) ** 2)));
    rewards.push(mean(scores));
    if (spread === 0) continue; // teaches nothing
    sequences.forEach(({ tokens, logprobs }, i) => {
      const advantage = (scores[i]! - mean(scores)) / (spread + 1e-6);
      data.push(rolloutDatum(prompt, [...tokens], [...(logprobs ?? [])], advantage));
    });
  }
  console.log(`step ${step + 1}  reward ${mean(rewards).toFixed(3)}  ${data.length} rollouts`);
  if (data.length === 0) continue;
  const pass = model.forwardBackward(data, 'importance_sampling');
  await model.optimStep({ learning_rate: options['learning-rate'] });
  await pass;
}
console.log(`training checkpoint: ${(await model.saveState('grpo-arithmetic')).path}`);
await service.close('success');

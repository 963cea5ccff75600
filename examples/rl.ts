/**
 * Reinforcement learning (GRPO): the model learns to answer sums in the asked form from a reward alone.
 *
 *     export TINKER_BASE_URL=http://127.0.0.1:8123 TINKER_API_KEY=tml-...
 *     node examples/rl.ts [steps]
 */
import { Datum, ModelInput, ServiceClient } from '@anneal/client';
import {
  BASE_MODEL,
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

const STEPS = Number(process.argv[2] ?? 15);
const QUESTIONS = 8;
const GROUP = 8;

/** 1 for the right answer, and some credit on the way: a number in brackets, the right number anywhere. */
function reward(answer: string, expected: string): number {
  const inForm = /^\[-?\d+\]$/.test(answer.trim());
  const named = answer.match(/-?\d+/g)?.includes(expected.replace(/[[\]]/g, '')) ?? false;
  return Number(answer.trim() === expected) + 0.3 * Number(inForm) + 0.2 * Number(named);
}

/** Targets of prompt and answer; positions of the prompt have no advantage, and so no gradient. */
function datum(prompt: number[], sample: number[], logprobs: number[], advantage: number): Datum {
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
const model = await service.createLoraTrainingClient({ baseModel: BASE_MODEL, rank: 16, seed: 1 });
const tokenizer = await tokenizerOf(model);
const rows = readJsonl<Row>('rl.jsonl').filter(({ task }) => task === 'arithmetic');
const samplingParams = { max_tokens: 16, temperature: 1, stop: endTokens(tokenizer) };

for (let step = 0; step < STEPS; step++) {
  const sampler = await model.saveWeightsAndGetSamplingClient();
  const groups = Array.from({ length: QUESTIONS }, (_, i) => {
    const row = rows[(step * QUESTIONS + i) % rows.length]!;
    const prompt = promptTokens(tokenizer, row.prompt[0].content);
    return { row, prompt, result: sampler.sample({ prompt, numSamples: GROUP, samplingParams }) };
  });
  const data: Datum[] = [];
  const rewards: number[] = [];
  for (const { row, prompt, result } of groups) {
    const { sequences } = await result;
    const scores = sequences.map(({ tokens }) => reward(textOf(tokenizer, tokens), row.answer));
    const spread = Math.sqrt(mean(scores.map((score) => (score - mean(scores)) ** 2)));
    rewards.push(mean(scores));
    if (spread === 0) continue; // a group that agrees teaches nothing
    sequences.forEach(({ tokens, logprobs }, i) => {
      const advantage = (scores[i]! - mean(scores)) / (spread + 1e-6);
      data.push(datum(prompt, [...tokens], [...(logprobs ?? [])], advantage));
    });
  }
  console.log(`step ${step + 1}  reward ${mean(rewards).toFixed(3)}  ${data.length} rollouts`);
  if (data.length === 0) continue;
  const pass = model.forwardBackward(data, 'importance_sampling');
  await model.optimStep({ learning_rate: 3e-4 });
  await pass;
}
console.log(`training checkpoint: ${(await model.saveState('rl')).path}`);
await service.close('success');

/**
 * Supervised fine-tuning: teaches a small model pig latin, arithmetic and JSON extraction in 40 steps.
 *
 *     export TINKER_BASE_URL=http://127.0.0.1:8123 TINKER_API_KEY=tml-...   # as `npm start` prints them
 *     node examples/sft.ts [steps]
 */
import { Datum, ModelInput, type SamplingClient, ServiceClient } from '@anneal/client';
import type { Tokenizer } from '@anneal/tokenizer';
import {
  answerTokens,
  BASE_MODEL,
  greedyAnswers,
  type Message,
  promptTokens,
  readJsonl,
  tokenizerOf,
} from './common.ts';

interface Row {
  messages: [Message, Message];
  task: string;
}

const STEPS = Number(process.argv[2] ?? 40);
const BATCH = 8;

/** Next-token targets over prompt and answer; only the answer and its end mark have weight. */
function datum(tokenizer: Tokenizer, { messages: [user, answer] }: Row): Datum {
  const prompt = promptTokens(tokenizer, user.content);
  const reply = answerTokens(tokenizer, answer.content);
  const tokens = [...prompt, ...reply];
  return Datum.from({
    model_input: ModelInput.fromInts(tokens.slice(0, -1)),
    loss_fn_inputs: {
      target_tokens: tokens.slice(1),
      weights: tokens.slice(1).map((_, i) => (i < prompt.length - 1 ? 0 : 1)),
    },
  });
}

async function exactMatch(sampler: SamplingClient, tokenizer: Tokenizer, rows: Row[]): Promise<string> {
  const questions = rows.map(({ messages: [user] }) => user.content);
  const answers = await greedyAnswers(sampler, tokenizer, questions);
  const right = rows.filter(({ messages: [, answer] }, i) => answers[i]?.trim() === answer.content);
  return `${((100 * right.length) / rows.length).toFixed(1)}%`;
}

const service = new ServiceClient();
const model = await service.createLoraTrainingClient({ baseModel: BASE_MODEL, rank: 16, seed: 1 });
const tokenizer = await tokenizerOf(model);
const data = readJsonl<Row>('sft.jsonl').map((row) => datum(tokenizer, row));
const heldOut = readJsonl<Row>('sft_eval.jsonl');

const base = await service.createSamplingClient({ baseModel: BASE_MODEL });
const before = await exactMatch(base, tokenizer, heldOut);
for (let step = 0; step < STEPS; step++) {
  const batch = Array.from({ length: BATCH }, (_, i) => data[(step * BATCH + i) % data.length]!);
  const pass = model.forwardBackward(batch, 'cross_entropy');
  const update = model.optimStep({ learning_rate: 1e-3 });
  console.log(`step ${step + 1}  loss:sum ${(await pass).metrics['loss:sum']?.toFixed(2)}`);
  await update;
}
const { path } = await model.saveWeightsForSampler('sft');
const tuned = await service.createSamplingClient({ modelPath: path });
console.log(`exact match: ${before} before, ${await exactMatch(tuned, tokenizer, heldOut)} after`);
console.log(`sampler checkpoint: ${path}`);
await service.close('success');

/**
 * Direct preference optimisation: chosen answers become likelier than rejected ones, also for questions never seen.
 *
 *     export TINKER_BASE_URL=http://127.0.0.1:8123 TINKER_API_KEY=tml-...
 *     node examples/dpo.ts
 *
 * As usual, the model is fine-tuned first, on the right answers of sft.jsonl and on more sums of the same kind: 40 pairs teach
 * a small model the form of an answer, but not to add. The server computes the loss, and what it compares with: the
 * log-probabilities of the base model. Prints the accuracy on the last 24 pairs, which are held out: the share of those whose
 * chosen answer gained on the rejected one.
 */
import { ServiceClient } from '@anneal/client';
import {
  BASE_MODEL,
  batchOf,
  type Conversation,
  commandLine,
  conversationDatum,
  datumOf,
  type Message,
  readJsonl,
  tokenizerOf,
} from './common.ts';
import { fineTune } from './sft.ts';

interface Row {
  prompt: [Message];
  chosen: Message;
  rejected: Message;
}

const HELD_OUT = 24;

/** Questions, none of which is in `asked`, and their answers: all sums and differences of 2 to 60, well mixed. */
function moreSums(asked: ReadonlySet<string>): [question: string, answer: string][] {
  const numbers = 59;
  const count = 2 * numbers ** 2;
  const sums = Array.from({ length: count }, (_, i): [string, string] => {
    const at = (i * 3001) % count;
    const [a, b] = [2 + (at % numbers), 2 + (Math.floor(at / numbers) % numbers)];
    const adds = at < numbers ** 2;
    const question = `Compute ${a} ${adds ? '+' : '-'} ${b}. Answer with the number in brackets.`;
    return [question, `[${adds ? a + b : a - b}]`];
  });
  return sums.filter(([question]) => !asked.has(question));
}

const options = commandLine({
  'warm-up': 80,
  sums: 3,
  steps: 12,
  pairs: 8,
  beta: 0.1,
  'learning-rate': 2e-4,
});
const config = { beta: options.beta, reference: 'base' };

const service = new ServiceClient();
const model = await service.createLoraTrainingClient({ baseModel: BASE_MODEL, rank: 16, seed: 1 });
const tokenizer = await tokenizerOf(model);
const rows = readJsonl<Row>('dpo.jsonl');
const pairs = rows.map(({ prompt: [{ content }], chosen, rejected }) =>
  [chosen, rejected].map((answer) => datumOf(tokenizer, content, answer.content)),
);
const [train, heldOut] = [pairs.slice(0, -HELD_OUT), pairs.slice(-HELD_OUT)];

async function heldOutAccuracy(): Promise<string> {
  const { metrics } = await model.forward(heldOut.flat(), 'dpo', config);
  return `held-out accuracy: ${metrics['accuracy:mean']!.toFixed(3)} of ${heldOut.length} pairs`;
}

const sums = moreSums(new Set(rows.map(({ prompt: [{ content }] }) => content)));
const answers = readJsonl<Conversation>('sft.jsonl').flatMap((row, i) => [
  conversationDatum(tokenizer, row),
  ...sums.slice(i * options.sums, (i + 1) * options.sums).map((sum) => datumOf(tokenizer, ...sum)),
]);
await fineTune(model, answers, { steps: options['warm-up'], batch: 16, learningRate: 1e-3 });
console.log(`after fine-tuning  ${await heldOutAccuracy()}`);

const signed = (value: number): string => `${value < 0 ? '' : '+'}${value.toFixed(2)}`;

for (let step = 0; step < options.steps; step++) {
  const pass = model.forwardBackward(batchOf(train, step, options.pairs).flat(), 'dpo', config);
  await model.optimStep({ learning_rate: options['learning-rate'] * (1 - step / options.steps) });
  const { metrics } = await pass;
  const [loss, margin, accuracy] = ['loss:sum', 'margin:mean', 'accuracy:mean'].map((key) => metrics[key]!);
  console.log(
    `step ${step + 1}  loss ${loss!.toFixed(4)}  margin ${signed(margin!)}  accuracy ${accuracy!.toFixed(2)}`,
  );
}
console.log(`after preferences  ${await heldOutAccuracy()}`);
console.log(`training checkpoint: ${(await model.saveState('dpo')).path}`);
await service.close('success');

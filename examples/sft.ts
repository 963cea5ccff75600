/**
 * Supervised fine-tuning: teaches a small model pig latin, arithmetic and JSON extraction in 40 steps.
 *
 *     export TINKER_BASE_URL=http://127.0.0.1:8123 TINKER_API_KEY=tml-...   # as `npm start` prints them
 *     node examples/sft.ts
 *
 * Prints the loss of every step, and how many held-out questions are answered exactly right before and after.
 */
import { fileURLToPath } from 'node:url';
import { type Datum, ServiceClient, type TrainingClient } from '@anneal/client';
import {
  BASE_MODEL,
  batchOf,
  type Conversation,
  commandLine,
  conversationDatum,
  exactMatch,
  readJsonl,
  tokenizerOf,
} from './common.ts';

/** Goes through the data in turn, at a learning rate that falls to zero, and prints the loss per token of every step. */
export async function fineTune(
  model: TrainingClient,
  data: Datum[],
  { steps, batch, learningRate }: { steps: number; batch: number; learningRate: number },
): Promise<void> {
  for (let step = 0; step < steps; step++) {
    const chosen = batchOf(data, step, batch);
    const pass = model.forwardBackward(chosen, 'cross_entropy');
    const update = model.optimStep({ learning_rate: learningRate * (1 - step / steps) });
    const weights = chosen.flatMap(({ loss_fn_inputs }) => [...loss_fn_inputs.weights!.data]);
    const loss = (await pass).metrics['loss:sum']! / weights.reduce((sum, w) => sum + w, 0);
    console.log(`step ${step + 1}  loss ${loss.toFixed(4)}`);
    await update;
  }
}

async function main(): Promise<void> {
  const options = commandLine({ steps: 40, batch: 8, rank: 16, 'learning-rate': 1e-3 });
  const service = new ServiceClient();
  const model = await service.createLoraTrainingClient({
    baseModel: BASE_MODEL,
    rank: options.rank,
    seed: 1,
  });
  const tokenizer = await tokenizerOf(model);
  const data = readJsonl<Conversation>('sft.jsonl').map((row) => conversationDatum(tokenizer, row));
  const heldOut = readJsonl<Conversation>('sft_eval.jsonl');

  console.log('before fine-tuning');
  const base = await service.createSamplingClient({ baseModel: BASE_MODEL });
  const before = await exactMatch(base, tokenizer, heldOut);
  await fineTune(model, data, { ...options, learningRate: options['learning-rate'] });
  console.log('after fine-tuning');
  const { path } = await model.saveWeightsForSampler('sft');
  const tuned = await service.createSamplingClient({ modelPath: path });
  console.log(`exact match: ${before} before, ${await exactMatch(tuned, tokenizer, heldOut)} after`);
  console.log(`sampler checkpoint: ${path}`);
  console.log(`training checkpoint, to go on from: ${(await model.saveState('sft')).path}`);
  await service.close('success');
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main();

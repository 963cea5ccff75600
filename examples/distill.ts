/**
 * Distillation: a student learns the token distributions of a teacher on the teacher's own answers, and no right answers.
 *
 *     export TINKER_BASE_URL=http://127.0.0.1:8123 TINKER_API_KEY=tml-...
 *     node examples/distill.ts                                              # fine-tunes a teacher first
 *     node examples/distill.ts --teacher tinker://.../sampler_weights/...   # or takes one, such as sft.ts's
 *
 * At each position the teacher's K likeliest tokens, with their probabilities, are soft targets of a [T, K] cross-entropy.
 * Prints KL(teacher || student) per token of each step, and how many held-out questions both answer exactly right.
 */
import { Datum, ModelInput, type SamplingClient, ServiceClient, TensorData } from '@anneal/client';
import type { Tokenizer } from '@anneal/tokenizer';
import {
  BASE_MODEL,
  batchOf,
  type Conversation,
  commandLine,
  conversationDatum,
  exactMatch,
  greedyAnswers,
  promptTokens,
  readJsonl,
  tokenizerOf,
} from './common.ts';
import { fineTune } from './sft.ts';

const { teacher: givenTeacher, ...options } = commandLine(
  { 'teacher-steps': 40, steps: 20, batch: 8, 'top-k': 8, 'learning-rate': 1e-3 },
  ['teacher'],
);
const K = options['top-k'];

const service = new ServiceClient();
const rows = readJsonl<Conversation>('sft.jsonl');

/** Path of a sampler checkpoint that has learned the tasks from right answers. */
async function fineTunedTeacher(): Promise<string> {
  const model = await service.createLoraTrainingClient({ baseModel: BASE_MODEL, rank: 16, seed: 1 });
  const tokenizer = await tokenizerOf(model);
  const data = rows.map((row) => conversationDatum(tokenizer, row));
  await fineTune(model, data, { steps: options['teacher-steps'], batch: options.batch, learningRate: 1e-3 });
  return (await model.saveWeightsForSampler('teacher')).path;
}

type TopK = readonly (readonly [token: number, logprob: number])[];

/** Targets and weights [T, K] from the teacher's rows; positions before the answer weigh nothing. */
function softDatum(tokens: number[], first: number, topk: readonly (TopK | null)[]): Datum {
  const targets = new Int32Array((tokens.length - 1) * K);
  const weights = new Float32Array((tokens.length - 1) * K);
  for (let position = first; position < tokens.length; position++) {
    const row = topk[position] ?? [];
    const total = row.reduce((sum, [, logprob]) => sum + Math.exp(logprob), 0);
    row.forEach(([token, logprob], i) => {
      targets[(position - 1) * K + i] = token;
      weights[(position - 1) * K + i] = Math.exp(logprob) / total;
    });
  }
  const shape = [tokens.length - 1, K];
  return Datum.from({
    model_input: ModelInput.fromInts(tokens.slice(0, -1)),
    loss_fn_inputs: {
      target_tokens: TensorData.fromTyped(targets, shape),
      weights: TensorData.fromTyped(weights, shape),
    },
  });
}

/** The teacher answers, then scores its answers. */
async function taught(teacher: SamplingClient, tokenizer: Tokenizer, questions: string[]): Promise<Datum[]> {
  const answers = await greedyAnswers(teacher, tokenizer, questions);
  return Promise.all(
    questions.map(async (question, i) => {
      const prompt = promptTokens(tokenizer, question);
      const tokens = [...prompt, ...answers[i]!];
      const { topk_prompt_logprobs } = await teacher.sample({
        prompt: tokens,
        samplingParams: { max_tokens: 1 },
        includePromptLogprobs: true,
        topkPromptLogprobs: K,
      });
      return softDatum(tokens, prompt.length, topk_prompt_logprobs ?? []);
    }),
  );
}

const path = givenTeacher ?? (await fineTunedTeacher());
const teacher = await service.createSamplingClient({ modelPath: path });
const student = await service.createLoraTrainingClient({ baseModel: BASE_MODEL, rank: 16, seed: 2 });
const tokenizer = await tokenizerOf(student);
for (let step = 0; step < options.steps; step++) {
  const questions = batchOf(rows, step, options.batch).map(({ messages: [user] }) => user.content);
  const batch = await taught(teacher, tokenizer, questions);
  const pass = student.forwardBackward(batch, 'cross_entropy');
  await student.optimStep({ learning_rate: options['learning-rate'] });
  const weights = batch.flatMap(({ loss_fn_inputs }) => [...loss_fn_inputs.weights!.data]);
  const entropy = -weights.reduce((sum, w) => sum + (w > 0 ? w * Math.log(w) : 0), 0);
  const kl = ((await pass).metrics['loss:sum']! - entropy) / weights.reduce((sum, w) => sum + w, 0);
  console.log(`step ${step + 1}  kl ${kl.toFixed(4)}`);
}
const heldOut = readJsonl<Conversation>('sft_eval.jsonl');
console.log('teacher');
const teachers = await exactMatch(teacher, tokenizer, heldOut);
console.log('student');
const students = await exactMatch(await student.saveWeightsAndGetSamplingClient(), tokenizer, heldOut);
console.log(`exact match: teacher ${teachers}, student ${students}`);
console.log(`training checkpoint: ${(await student.saveState('distilled')).path}`);
await service.close('success');

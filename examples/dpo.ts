/**
 * Direct preference optimisation, with the loss computed in this program: chosen answers become likelier than rejected ones.
 *
 *     export TINKER_BASE_URL=http://127.0.0.1:8123 TINKER_API_KEY=tml-...
 *     node examples/dpo.ts [steps]
 *
 * The loss is -log sigmoid(beta * (margin of the model - margin of the reference)), averaged over pairs, margins being
 * log p(chosen) - log p(rejected).
 */
import { type CustomLossFn, Datum, ModelInput, ServiceClient } from '@anneal/client';
import { answerTokens, BASE_MODEL, type Message, promptTokens, readJsonl, tokenizerOf } from './common.ts';

interface Row {
  prompt: [Message];
  chosen: Message;
  rejected: Message;
}

/** An answer to compare: its datum, all its tokens, and where the answer begins among the targets. */
interface Answer {
  datum: Datum;
  tokens: number[];
  start: number;
}

const STEPS = Number(process.argv[2] ?? 20);
const PAIRS = 4;
const BETA = 0.1;

const sum = (values: ArrayLike<number>, start: number): number =>
  Array.from(values)
    .slice(start)
    .reduce((total, value) => total + value, 0);

/** `answers` holds chosen and rejected in turn, `reference` the log-probability of each under the base model. */
function dpoLoss(answers: Answer[], reference: number[]): CustomLossFn {
  return (_data, logprobs) => {
    const gains = logprobs.map(({ data }, i) => sum(data, answers[i]!.start) - reference[i]!);
    const margins = gains.filter((_, i) => i % 2 === 0).map((gain, pair) => gain - gains[2 * pair + 1]!);
    const loss =
      margins.reduce((total, margin) => total + Math.log1p(Math.exp(-BETA * margin)), 0) / margins.length;
    const gradients = logprobs.map(({ data }, i) => {
      const slope = -BETA / (1 + Math.exp(BETA * margins[i >> 1]!)) / margins.length;
      return Float32Array.from(data, (_, t) => (t < answers[i]!.start ? 0 : i % 2 === 0 ? slope : -slope));
    });
    const margin = margins.reduce((total, value) => total + value, 0) / margins.length;
    return { loss, gradients, metrics: { 'margin:mean': margin } };
  };
}

const service = new ServiceClient();
const model = await service.createLoraTrainingClient({ baseModel: BASE_MODEL, rank: 16, seed: 1 });
const base = await service.createSamplingClient({ baseModel: BASE_MODEL });
const tokenizer = await tokenizerOf(model);

function answer(user: string, text: string): Answer {
  const prompt = promptTokens(tokenizer, user);
  const tokens = [...prompt, ...answerTokens(tokenizer, text)];
  const datum = Datum.from({
    model_input: ModelInput.fromInts(tokens.slice(0, -1)),
    loss_fn_inputs: { target_tokens: tokens.slice(1), weights: tokens.slice(1).fill(0) },
  });
  return { datum, tokens, start: prompt.length - 1 };
}

const pairs = readJsonl<Row>('dpo.jsonl').map(({ prompt: [{ content }], chosen, rejected }) => [
  answer(content, chosen.content),
  answer(content, rejected.content),
]);

for (let step = 0; step < STEPS; step++) {
  const answers = Array.from({ length: PAIRS }, (_, i) => pairs[(step * PAIRS + i) % pairs.length]!).flat();
  const scores = await Promise.all(answers.map(({ tokens }) => base.computeLogprobs(tokens)));
  const reference = scores.map((logprobs, i) => sum(logprobs.slice(1).map(Number), answers[i]!.start));
  const pass = model.forwardBackwardCustom(
    answers.map(({ datum }) => datum),
    dpoLoss(answers, reference),
  );
  await model.optimStep({ learning_rate: 2e-4 });
  const { metrics } = await pass;
  console.log(
    `step ${step + 1}  loss ${metrics['loss:sum']?.toFixed(4)}  margin ${metrics['margin:mean']?.toFixed(2)}`,
  );
}
console.log(`training checkpoint: ${(await model.saveState('dpo')).path}`);
await service.close('success');

/** What is run with the installed packages. */

/** A training step, a sample and a tokenizer; `report` is called with what came of them. */
const PROGRAM = `
import { chatDatum, Datum, ModelInput, ServiceClient } from '@anneal/client';
import { tensorLoss } from '@anneal/client/tfjs';

const service = new ServiceClient({ baseUrl: BASE_URL, apiKey: 'tml-test' });
const model = await service.createLoraTrainingClient({ baseModel: 'base' });
const datum = Datum.from({
  model_input: ModelInput.fromInts([1, 2]),
  loss_fn_inputs: { target_tokens: [2, 3], weights: [1, 1] },
});
const pass = model.forwardBackward([datum], 'cross_entropy');
const step = model.optimStep({ learning_rate: 0.1 });
const { metrics } = await pass;
await step;
const sampler = await model.saveWeightsAndGetSamplingClient();
const { sequences } = await sampler.sample({ prompt: [4, 5], samplingParams: { max_tokens: 2 } });
const tokenizer = await model.getTokenizer({ tokenizerId: TOKENIZER });
const chat = chatDatum(tokenizer, [{ role: 'user', content: 'Hi' }, { role: 'assistant', content: 'Ho' }]);
const answer = tokenizer.decode(sequences[0].tokens);
await service.close('success');
REPORT([typeof tensorLoss, metrics['loss:sum'].toFixed(1), answer, ModelInput.length(chat.model_input)].join(' '));
`;

/** Source texts of values. */
interface Places {
  baseUrl: string;
  tokenizer: string;
  report: string;
}

export function programOf({ baseUrl, tokenizer, report }: Places): string {
  return PROGRAM.replace('BASE_URL', baseUrl).replace('TOKENIZER', tokenizer).replace('REPORT', report);
}

/** Compiles where the declarations can be read without Node's. */
export const TYPED_PROGRAM = `
import { type APIFuture, type Datum, type ForwardBackwardOutput, ServiceClient, type TrainingClient } from '@anneal/client';
import { tensorLoss } from '@anneal/client/tfjs';

export async function train(data: Datum[]): Promise<number> {
  const service = new ServiceClient({ baseUrl: 'http://localhost', apiKey: 'tml-test' });
  const model: TrainingClient = await service.createLoraTrainingClient({ baseModel: 'base', rank: 8 });
  const pass: APIFuture<ForwardBackwardOutput> = model.forwardBackward(data, 'cross_entropy');
  for await (const run of service.createRestClient().trainingRuns()) console.log(run.training_run_id.length);
  // @ts-expect-error: camelCase is not what the wire calls it
  await model.optimStep({ learningRate: 1 });
  return (await pass).metrics['loss:sum'] ?? tensorLoss.length;
}
`;

/** Trains an adapter on examples, step by step, and tells of each. */
import { Datum, type TrainingClient } from '@anneal/client';
import { type Example, type TrainingKind, weightOf } from './read-examples.ts';

export interface Plan {
  kind: TrainingKind;
  epochs: number;
  batchSize: number;
  learningRate: number;
  /** Of `dpo`. */
  beta: number;
  /** Steps that are done already, as a resumed run has. */
  done: number;
}

export interface Step {
  step: number;
  steps: number;
  /** Of `sft` per trained token, of `dpo` per pair. */
  loss: number;
  learningRate: number;
  /** Of `dpo`: the share of pairs whose chosen answer gained on the rejected one. */
  accuracy?: number;
}

export function stepsOf(examples: number, { epochs, batchSize }: Plan): number {
  return epochs * Math.ceil(examples / batchSize);
}

/** What is told and done along the way. */
export interface Along {
  onStep: (step: Step) => void;
  /** Saves what there is after so many steps. */
  onSave: (done: number) => Promise<void>;
  /** Steps between saves; the end, which is saved anyway, is left out. Absent: none. */
  saveEvery?: number | undefined;
}

/**
 * Steps of Adam at a rate that falls linearly to zero. A batch goes up while the one before is computed.
 *
 * @returns how many steps are done: fewer than planned when `interrupt` is aborted
 */
export async function train(
  model: TrainingClient,
  examples: readonly Example[],
  plan: Plan,
  { onStep, onSave, saveEvery }: Along,
  interrupt: AbortSignal,
): Promise<number> {
  const steps = stepsOf(examples.length, plan);
  let index = plan.done;
  let previous: Promise<Step> | undefined;
  for (; index < steps && !interrupt.aborted; index++) {
    const running = runStep(model, batchOf(examples, index, plan.batchSize), plan, { index, steps });
    // Awaited a step later: a failure meanwhile is not unhandled.
    running.catch(() => {});
    if (previous) onStep(await previous);
    previous = running;
    const done = index + 1;
    if (saveEvery === undefined || done % saveEvery !== 0 || done === steps) continue;
    onStep(await running);
    previous = undefined;
    await onSave(done);
  }
  if (previous) onStep(await previous);
  return index;
}

async function runStep(
  model: TrainingClient,
  batch: readonly Example[],
  { kind, learningRate, beta }: Plan,
  { index, steps }: { index: number; steps: number },
): Promise<Step> {
  const rate = learningRate * (1 - index / steps);
  const tokens = batch.flat().reduce((sum, datum) => sum + weightOf(datum), 0);
  const pass =
    kind === 'sft'
      ? model.forwardBackward(perToken(batch.flat(), tokens), 'cross_entropy')
      : model.forwardBackward(batch.flat(), 'dpo', { beta, reference: 'base' });
  const update = model.optimStep({ learning_rate: rate });
  const [{ metrics }] = await Promise.all([pass, update]);
  const accuracy = metrics['accuracy:mean'];
  return {
    step: index + 1,
    steps,
    loss: metrics['loss:sum']!,
    learningRate: rate,
    ...(accuracy === undefined ? {} : { accuracy }),
  };
}

/** The server sums over tokens: divided by their number, the loss and the size of a step do not depend on the batch. */
function perToken(data: readonly Datum[], tokens: number): Datum[] {
  return data.map(({ model_input, loss_fn_inputs }) => {
    const { target_tokens, weights } = loss_fn_inputs;
    const scaled = Array.from(weights!.data, (weight) => Number(weight) / tokens);
    return Datum.from({ model_input, loss_fn_inputs: { target_tokens: target_tokens!, weights: scaled } });
  });
}

/** The examples of a step. Each epoch has its own order, the same every time, so that a resumed run goes on in it. */
function batchOf(examples: readonly Example[], index: number, batchSize: number): Example[] {
  const perEpoch = Math.ceil(examples.length / batchSize);
  const order = shuffled(examples.length, Math.floor(index / perEpoch));
  const start = (index % perEpoch) * batchSize;
  return order.slice(start, start + batchSize).map((at) => examples[at]!);
}

/** Numbers below `count` in an order that `epoch` decides (Fisher-Yates, with Marsaglia's xorshift32). */
function shuffled(count: number, epoch: number): number[] {
  const order = Array.from({ length: count }, (_, at) => at);
  let state = (epoch + 1) * 0x9e3779b1;
  for (let last = count - 1; last > 0; last--) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    const other = (state >>> 0) % (last + 1);
    [order[last], order[other]] = [order[other]!, order[last]!];
  }
  return order;
}

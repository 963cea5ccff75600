/** From a data file to a saved adapter on a running server. */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { basename, extname } from 'node:path';
import {
  ParsedCheckpointTinkerPath,
  type RestClient,
  ServiceClient,
  type TrainingClient,
} from '@anneal/client';
import type { Connection } from '../remote.ts';
import { onlyModel } from '../served-model.ts';
import { trainingProgress } from './progress.ts';
import { readExamples, type TrainingKind } from './read-examples.ts';
import { type Plan, stepsOf, train } from './train.ts';

export interface TrainingOptions extends Omit<Plan, 'done' | 'kind'> {
  model?: string | undefined;
  rank?: number | undefined;
  maxLength?: number | undefined;
  name?: string | undefined;
  resume?: string | undefined;
  /** Save the state after every so many steps; the latest such state is kept. */
  saveEvery?: number | undefined;
  tokenizer?: string | undefined;
  json?: boolean | undefined;
}

export interface Trained {
  /** To sample from. */
  path: string;
  /** To go on training from. */
  state: string;
  run: string;
  steps: number;
  /** Ended early, on request; `state` is where to resume. */
  interrupted: boolean;
}

/** `interrupt` ends training after the steps under way; what there is by then is saved. */
export async function runTraining(
  connection: Connection,
  kind: TrainingKind,
  file: string,
  options: TrainingOptions,
  interrupt: AbortSignal,
): Promise<Trained> {
  const service = new ServiceClient({ ...connection, displayName: `anneal train ${kind}` });
  try {
    const model = await openModel(service, connection, options);
    const tokenizerId = options.tokenizer;
    const tokenizer = await model.getTokenizer(tokenizerId === undefined ? {} : { tokenizerId });
    const examples = readExamples(file, kind, tokenizer, options.maxLength);
    const { epochs, batchSize, learningRate, beta } = options;
    const plan = { kind, epochs, batchSize, learningRate, beta, done: 0 };
    const mark = JSON.stringify([kind, digestOf(file), epochs, batchSize]);
    const steps = stepsOf(examples.length, plan);
    plan.done = options.resume === undefined ? 0 : await stepsDone(service, options.resume, mark, steps);
    const progress = trainingProgress(options.json);
    const name = options.name ?? basename(file, extname(file)).replace(/[^\w.-]/g, '-');
    const saves = new RunningSaves(model, service.createRestClient(), mark);
    const onSave = async (done: number): Promise<void> =>
      progress.onSaved(done, await saves.replace(`${name}-step-${done}`, done));
    const along = { onStep: progress.onStep, onSave, saveEvery: options.saveEvery };
    const done = await train(model, examples, plan, along, interrupt).finally(progress.stop);
    const state = await saves.replace(name, done);
    const { path } = await model.saveWeightsForSampler(name);
    return { path, state, run: model.modelId, steps: done, interrupted: done < steps };
  } finally {
    await service.close('success');
  }
}

/** States of one training: each takes the place of the one before, once it is there. */
class RunningSaves {
  readonly #model: TrainingClient;
  readonly #rest: RestClient;
  readonly #mark: string;
  #latest: string | undefined;

  constructor(model: TrainingClient, rest: RestClient, mark: string) {
    this.#model = model;
    this.#rest = rest;
    this.#mark = mark;
  }

  async replace(name: string, done: number): Promise<string> {
    const userMetadata = { [PLAN]: this.#mark, [STEPS]: String(done) };
    const { path } = await this.#model.saveState(name, { userMetadata });
    const before = this.#latest;
    this.#latest = path;
    if (before !== undefined) await this.#rest.deleteCheckpointFromTinkerPath(before);
    return path;
  }
}

/** What a saved state remembers of the training that it is from. */
const PLAN = 'anneal_train_plan';
const STEPS = 'anneal_train_steps';

/** Another file of as many examples is other data. */
function digestOf(file: string): string {
  return createHash('sha256').update(readFileSync(file)).digest('hex').slice(0, 16);
}

async function openModel(
  service: ServiceClient,
  connection: Connection,
  { model, rank, resume }: TrainingOptions,
): Promise<TrainingClient> {
  if (resume !== undefined) return await service.createTrainingClientFromStateWithOptimizer(resume);
  const baseModel = model ?? (await onlyModel(connection));
  return await service.createLoraTrainingClient({ baseModel, ...(rank === undefined ? {} : { rank }) });
}

/** Where an interrupted training by the same plan goes on; another training begins at its first step. */
async function stepsDone(service: ServiceClient, path: string, mark: string, steps: number): Promise<number> {
  const { training_run_id } = ParsedCheckpointTinkerPath.fromTinkerPath(path);
  const { checkpoints } = await service.createRestClient().listCheckpoints(training_run_id);
  const metadata = checkpoints.find(({ tinker_path }) => tinker_path === path)?.user_metadata;
  const done = metadata?.[PLAN] === mark ? Number(metadata[STEPS]) : 0;
  return done < steps ? done : 0;
}

/** What only a whole server shows: how fast it starts, its first steps, and how long a request that does nothing takes. */
import type { ServiceClient } from '@anneal/client';
import { type BenchCase, type Run, timed } from './bench-case.ts';
import { randomSequences } from './random-tokens.ts';
import { type CaseResult, quantile } from './result.ts';
import { summary } from './run-case.ts';
import type { SpawnedServer } from './spawn-server.ts';
import type { Subject } from './subject.ts';
import { trainStep } from './training-cases.ts';

const OPEN_POLLS = 500;
const ROUND_TRIPS = 300;
const STEPS = 100;

/** Cases of the engine that are run against the server too: what the API adds to them. */
export const OVER_HTTP = ['train/8x256', 'decode/1', 'decode/8/one', 'latency/'];

export const startCases = {
  start: { id: 'server/start', title: 'start of the server until it is healthy, caches warm' },
  firstStep: {
    id: 'server/first-step',
    title: 'first train step of a fresh server, 4x256, compiling included',
  },
  nextShape: { id: 'server/next-shape', title: 'first train step of another shape, 2x384' },
} satisfies Record<string, Pick<BenchCase, 'id' | 'title'>>;

export const ROUND_TRIP_CASES = [
  { id: 'server/get-info', title: `get_info while ${OPEN_POLLS} results are waited for` },
  {
    id: 'server/empty-optim-step',
    title: `optim_step of nothing and its result, while ${OPEN_POLLS} others are waited for`,
  },
] as const;

/** The first steps of a server that has not trained before. */
export async function firstSteps(subject: Subject): Promise<{ firstStep: Run; nextShape: Run }> {
  const model = await subject.createModel();
  const step = async (batch: number, length: number): Promise<Run> => {
    const shown = Math.min(length, subject.maxContextLength);
    const data = randomSequences(new Array(batch).fill(shown + 1), length, subject.vocabSize);
    return { seconds: await timed(() => trainStep(model, data)), tokens: 0 };
  };
  const steps = { firstStep: await step(4, 256), nextShape: await step(2, 384) };
  await model.close();
  return steps;
}

/** Round trips of requests that do nothing, while hundreds of others wait for results. */
export async function roundTrips(
  { url, apiKey }: Pick<SpawnedServer, 'url' | 'apiKey'>,
  service: ServiceClient,
  baseModel: string,
): Promise<CaseResult[]> {
  const post = poster(url, apiKey);
  const small = { baseModel, rank: 1, trainMlp: false, trainUnembed: false };
  const parked = await service.createLoraTrainingClient(small);
  const model = await service.createLoraTrainingClient(small);
  const polls = await openPolls(post, parked.modelId);
  try {
    const info = () => timed(() => post('get_info', { model_id: model.modelId }));
    const step = () => timed(() => model.optimStep({ learning_rate: 0 }));
    const [infoCase, stepCase] = ROUND_TRIP_CASES;
    return [
      latencies(infoCase, await repeat(ROUND_TRIPS, info)),
      latencies(stepCase, await repeat(STEPS, step)),
    ];
  } finally {
    await polls.close();
  }
}

type Post = (path: string, body: object, signal?: AbortSignal) => Promise<unknown>;

function poster(url: string, apiKey: string): Post {
  return async (path, body, signal) => {
    const answer = await fetch(`${url}/api/v1/${path}`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', 'x-api-key': apiKey },
      body: JSON.stringify(body),
      signal,
    });
    const json: unknown = await answer.json();
    // 408 is a poll's answer: not yet.
    if (!answer.ok && answer.status !== 408)
      throw new Error(`${path}: status ${answer.status}: ${JSON.stringify(json)}`);
    return json;
  };
}

/** Requests behind a number that never comes, each with a poll that waits for its result. */
async function openPolls(post: Post, modelId: string): Promise<{ close(): Promise<void> }> {
  const controller = new AbortController();
  const adam_params = { learning_rate: 0 };
  const numbers = Array.from({ length: OPEN_POLLS }, (_, i) => i + 2);
  await Promise.all(numbers.map((seq_id) => post('optim_step', { model_id: modelId, seq_id, adam_params })));
  const wait = async (seq: number) => {
    const body = { request_id: `${modelId}:${seq}`, model_id: modelId };
    while (!controller.signal.aborted)
      await post('retrieve_future', body, controller.signal).catch(ignoreAbort);
  };
  const polls = numbers.map(wait);
  return {
    close: async () => {
      controller.abort();
      await Promise.all(polls);
      await post('optim_step', { model_id: modelId, seq_id: 1, adam_params });
    },
  };

  function ignoreAbort(error: unknown): void {
    if (!controller.signal.aborted) throw error;
  }
}

/** One after another, the first ones not counted. */
async function repeat(times: number, work: () => Promise<number>): Promise<number[]> {
  const seconds: number[] = [];
  for (let i = -10; i < times; i++) {
    const took = await work();
    if (i >= 0) seconds.push(took);
  }
  return seconds;
}

function latencies(bench: Pick<BenchCase, 'id' | 'title'>, seconds: number[]): CaseResult {
  const runs = seconds.map((took) => ({ seconds: took, tokens: 0 }));
  return { ...summary(bench, runs), details: { p50: quantile(seconds, 0.5), p99: quantile(seconds, 0.99) } };
}

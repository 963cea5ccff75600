/**
 * The scenarios of the SDK's compatibility suite, with this client, against the server at TINKER_BASE_URL (key:
 * TINKER_API_KEY, model: BASE_MODEL). `npm run test:compat`.
 */

import type { ForwardBackwardOutput, LoraTrainingOptions, TrainingClient } from '../src/index.ts';
import {
  Datum,
  type LossFn,
  type LossFnConfig,
  ModelInput,
  RestClient,
  type SampleOptions,
  type SamplingClient,
  ServiceClient,
  TensorData,
} from '../src/index.ts';
import { seededRandom } from '../test/fault-proxy.ts';

function need(name: string): string {
  const value = process.env[name];
  if (!value) throw new Error(`set ${name}: these scenarios run against a server`);
  return value;
}

export const BASE_URL = need('TINKER_BASE_URL').replace(/\/+$/, '');
export const BASE_MODEL = need('BASE_MODEL');
/** Largest difference between logprobs of one token on two code paths. */
export const TOLERANCE = Number(process.env.COMPAT_TOL ?? 0.02);
/** Largest difference between two runs of one code path. */
export const TIGHT = Number(process.env.COMPAT_TIGHT_TOL ?? 0.001);
/** Token ids below this are used. */
const VOCAB = Number(process.env.COMPAT_VOCAB ?? 1000);

export const service = new ServiceClient({ userMetadata: { suite: 'compat' }, displayName: 'compat-ts' });
export const rest = new RestClient();

let count = 0;

export const unique = (prefix: string) => `${prefix}-${Date.now().toString(36)}-${count++}`;

export function tokensOf(length: number, seed = 0): number[] {
  const random = seededRandom(seed);
  return Array.from({ length }, () => 50 + Math.floor(random() * (VOCAB - 50)));
}

/** A next-token example over a sequence. */
export function crossEntropy(ids: readonly number[], weights: number[] = ids.slice(1).map(() => 1)): Datum {
  return Datum.from({
    model_input: ModelInput.fromInts(ids.slice(0, -1)),
    loss_fn_inputs: { target_tokens: ids.slice(1), weights },
  });
}

/** A policy example over a sequence. */
export function policy(ids: readonly number[], logprobs: number[], advantages: number[]): Datum {
  return Datum.from({
    model_input: ModelInput.fromInts(ids.slice(0, -1)),
    loss_fn_inputs: { target_tokens: ids.slice(1), logprobs, advantages },
  });
}

export const newModel = (options: Partial<LoraTrainingOptions> = {}): Promise<TrainingClient> =>
  service.createLoraTrainingClient({ baseModel: BASE_MODEL, rank: 8, seed: 7, ...options });

/** Flat logprobs of a datum. */
export function logprobsAt(output: ForwardBackwardOutput, index = 0): number[] {
  return Array.from(output.loss_fn_outputs[index]!.logprobs!.data);
}

export const nestedLogprobs = (output: ForwardBackwardOutput) =>
  TensorData.toNested(output.loss_fn_outputs[0]!.logprobs!) as number[][];

export const score = async (model: TrainingClient, ids: readonly number[]) =>
  logprobsAt(await model.forward([crossEntropy(ids)], 'cross_entropy'));

/** One pass and one update, submitted together. */
export async function step(
  model: TrainingClient,
  data: Datum[],
  params: Parameters<TrainingClient['optimStep']>[0] = { learning_rate: 1e-3 },
  lossFn: LossFn = 'cross_entropy',
  config?: LossFnConfig,
) {
  const pass = model.forwardBackward(data, lossFn, config);
  const update = model.optimStep(params);
  return [await pass, await update] as const;
}

export const promptLogprobs = async (
  sampler: SamplingClient,
  ids: readonly number[],
  promptLogprobsLastN?: number,
) => sampler.computeLogprobs(ids, { promptLogprobsLastN });

/** Largest difference; infinite for different lengths. */
export function distance(a: readonly (number | null)[], b: readonly (number | null)[]): number {
  if (a.length !== b.length) return Number.POSITIVE_INFINITY;
  return a.reduce<number>(
    (most, value, index) => Math.max(most, Math.abs((value ?? 0) - (b[index] ?? 0))),
    0,
  );
}

export const sum = (values: readonly number[]) => values.reduce((total, value) => total + value, 0);

export async function drawOne(
  sampler: SamplingClient,
  prompt: readonly number[],
  options: Partial<SampleOptions>,
) {
  const response = await sampler.sample({ prompt, samplingParams: {}, ...options });
  return response.sequences[0]!;
}

/** A plain request with the client's credential. */
export async function raw(path: string, body?: unknown): Promise<{ status: number; body: unknown }> {
  const answer = await fetch(`${BASE_URL}${path}`, {
    method: body === undefined ? 'GET' : 'POST',
    headers: { 'x-api-key': need('TINKER_API_KEY'), 'content-type': 'application/json' },
    body: body === undefined ? undefined : JSON.stringify(body),
    signal: AbortSignal.timeout(60_000),
  });
  const text = await answer.text();
  return { status: answer.status, body: text ? JSON.parse(text) : undefined };
}

/** Names, shapes and values of an exported adapter, and its configuration. */
export async function adapterOf(model: TrainingClient) {
  const { path } = await model.saveWeightsExternal(unique('export'), { ttlSeconds: 3600 });
  const { urls } = await rest.getExternalWeightsUrls(path);
  const get = async (file: string) => fetch(urls[file]!);
  const bytes = await (await get('adapter_model.safetensors')).arrayBuffer();
  const config = (await (await get('adapter_config.json')).json()) as { r: number; lora_alpha: number };
  return { tensors: readSafetensors(bytes), config };
}

function readSafetensors(bytes: ArrayBuffer): Map<string, { shape: number[]; data: Float32Array }> {
  const headerLength = Number(new DataView(bytes).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(bytes, 8, headerLength)));
  const entries = Object.entries<{ dtype: string; shape: number[]; data_offsets: [number, number] }>(header);
  return new Map(
    entries
      .filter(([name]) => name !== '__metadata__')
      .map(
        ([
          name,
          {
            dtype,
            shape,
            data_offsets: [start, end],
          },
        ]) => {
          if (dtype !== 'F32') throw new Error(`${name} is ${dtype}`);
          const data = new Float32Array(bytes.slice(8 + headerLength + start, 8 + headerLength + end));
          return [name, { shape, data }];
        },
      ),
  );
}

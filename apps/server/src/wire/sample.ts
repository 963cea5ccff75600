/** A sample's request in the engine's form, and its result in the wire's. */
import type {
  BaseModelInfo,
  SampleRequest as EngineSample,
  SampleResult,
  SamplingParams,
} from '@anneal/engine';
import {
  decodeJsonChunk,
  type EncodableSampleResponse,
  type SampleRequest,
  type TensorData as Tensor,
  TensorData,
} from '@anneal/types';
import { ApiError } from '../errors.ts';
import { type InputContext, readModelInput } from './model-input.ts';

/** Samples per request; the ids of all of them are promised at once. */
const MAX_SAMPLES = 4096;
const SKIPPED = -1;

type Targets = NonNullable<EngineSample['targetPromptLogprobs']>;

/**
 * The request as the engine takes it, less the sampler.
 *
 * @throws ApiError for what can be told without the model: lengths, counts, shapes.
 */
export async function toEngineSample(
  request: SampleRequest,
  context: InputContext,
): Promise<Omit<EngineSample, 'samplerId'>> {
  const { model } = context;
  const chunks = request.prompt.chunks.map(decodeJsonChunk);
  const { tokens: prompt, images } = await readModelInput(chunks, 'prompt.chunks', context);
  refuseLongPrompt(prompt.length, request.sampling_params.max_tokens ?? undefined, model);
  if (request.num_samples > MAX_SAMPLES) throw tooLarge('num_samples', request.num_samples, MAX_SAMPLES);
  const counts = ['topk_prompt_logprobs', 'topk_sample_logprobs', 'prompt_alt_tokens_k'] as const;
  for (const name of counts) {
    if (request[name] > model.vocabSize) throw tooLarge(name, request[name], model.vocabSize);
  }
  const targets = request.target_prompt_logprobs;
  return {
    prompt,
    ...(images ? { images } : {}),
    numSamples: request.num_samples,
    params: toEngineParams(request.sampling_params),
    promptLogprobs: request.prompt_logprobs ?? false,
    topkPromptLogprobs: request.topk_prompt_logprobs,
    topkSampleLogprobs: request.topk_sample_logprobs,
    promptAltTokensK: request.prompt_alt_tokens_k,
    ...lastN(request),
    ...(targets ? { targetPromptLogprobs: toTargets(targets, prompt.length) } : {}),
  };
}

/** The result as the wire has it. */
export function toEncodableSample(result: SampleResult, request: SampleRequest): EncodableSampleResponse {
  const { targetPromptLogprobs: scores, ...rest } = result;
  const targets = request.target_prompt_logprobs;
  return { ...rest, ...(scores && targets ? { targetPromptLogprobs: likeTargets(scores, targets) } : {}) };
}

function refuseLongPrompt(length: number, maxTokens: number | undefined, model: BaseModelInfo): void {
  const limit = model.maxContextLength;
  if (length === 0) throw new ApiError('invalid_request', 'prompt: it holds no token');
  if (length + (maxTokens ?? 1) <= limit) return;
  const sum = `${length} + ${maxTokens ?? 1} > ${limit}`;
  const message = `Prompt length plus max_tokens exceeds the model's context window: ${sum}`;
  throw new ApiError('invalid_request', message);
}

function tooLarge(name: string, value: number, limit: number): ApiError {
  return new ApiError('invalid_request', `${name}: ${value} is more than ${limit}`);
}

function toEngineParams(params: SampleRequest['sampling_params']): SamplingParams {
  const { max_tokens: maxTokens, seed, stop } = params;
  return {
    temperature: params.temperature,
    topK: params.top_k,
    topP: params.top_p,
    ...(maxTokens == null ? {} : { maxTokens }),
    ...(seed == null ? {} : { seed }),
    ...(stop == null ? {} : { stop: toStop(stop) }),
  };
}

function toStop(stop: string | number[] | string[]): { tokenIds: number[]; strings: string[] } {
  const list = typeof stop === 'string' ? [stop] : stop;
  const empty = list.indexOf('' as never);
  if (empty >= 0) throw new ApiError('invalid_request', `sampling_params.stop[${empty}]: an empty string`);
  return {
    tokenIds: list.filter((item) => typeof item === 'number'),
    strings: list.filter((item) => typeof item === 'string'),
  };
}

function lastN(request: SampleRequest): { promptLogprobsLastN?: number } {
  const count = request.prompt_logprobs_last_n;
  if (count == null) return {};
  if (!request.prompt_logprobs && request.topk_prompt_logprobs === 0) {
    const message = 'prompt_logprobs_last_n: set prompt_logprobs or topk_prompt_logprobs too';
    throw new ApiError('invalid_request', message);
  }
  return { promptLogprobsLastN: count };
}

function toTargets(tensor: Tensor, promptLength: number): Targets {
  const [rows, columns, ...more] = TensorData.shapeOf(tensor);
  if (rows !== promptLength - 1 || columns === undefined || more.length > 0) {
    const got = `[${TensorData.shapeOf(tensor)}]`;
    const message = `target_prompt_logprobs: shape ${got} must be [${promptLength - 1}, K], one row per prompt token after the first`;
    throw new ApiError('invalid_request', message);
  }
  if (tensor.dtype !== 'int64') {
    throw new ApiError('invalid_request', `target_prompt_logprobs: dtype "${tensor.dtype}" must be int64`);
  }
  const dense = TensorData.toTyped(tensor, SKIPPED);
  return { shape: [rows, columns], data: Int32Array.from(dense.data as BigInt64Array, Number) };
}

/** Dense scores in the layout of the request: a sparse request gets its own cells back. */
function likeTargets(scores: Float32Array, targets: Tensor): Tensor {
  const shape = TensorData.shapeOf(targets);
  const { sparse_crow_indices: crow, sparse_col_indices: col } = targets;
  if (!crow || !col) return { data: scores, dtype: 'float32', shape };
  const columns = shape[1] ?? 0;
  const data = new Float32Array(col.length);
  for (let row = 0; row + 1 < crow.length; row += 1) {
    for (let cell = crow[row] ?? 0; cell < (crow[row + 1] ?? 0); cell += 1) {
      data[cell] = scores[row * columns + (col[cell] ?? 0)] ?? 0;
    }
  }
  return { data, dtype: 'float32', shape, sparse_crow_indices: crow, sparse_col_indices: col };
}

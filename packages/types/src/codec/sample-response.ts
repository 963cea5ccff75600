/** Results of sampling: typed arrays to protobuf or JSON (servers), and protobuf to plain data (clients). */
import { create, fromBinary, toBinary } from '@bufbuild/protobuf';
import * as pb from '../gen/tinker_public_pb.ts';
import type { PromptAltTokens, SampledSequence, SampleResponse } from '../sample-response.ts';
import type { TensorData } from '../tensor-data.ts';
import { packFloat32, packInt32, unpackFloat32, unpackInt32 } from './packed.ts';
import { decodeTensorData, encodeTensorData } from './tensor.ts';
import { decodeTopk, encodeTopk, type TopkMatrix, topkRows } from './topk.ts';
import { WireFormatError } from './wire-format-error.ts';

/** A sampled sequence as a server has it. */
export interface EncodableSequence {
  stopReason: 'stop' | 'length';
  tokens: Int32Array;
  logprobs: Float32Array;
  topk?: TopkMatrix;
}

/** A sample's result as a server has it. */
export interface EncodableSampleResponse {
  sequences: EncodableSequence[];
  /** One per prompt token, NaN where not computed. */
  promptLogprobs?: Float32Array;
  topkPromptLogprobs?: TopkMatrix;
  /** Shape and layout of the request's tensor. */
  targetPromptLogprobs?: TensorData;
  /** Row-major [prompt length - 1, k]. */
  promptAltTokens?: { k: number; tokens: Int32Array; logprobs: Float32Array };
  promptCacheHitTokens?: number;
}

function encodeSequence(sequence: EncodableSequence): pb.SampledSequence {
  const { tokens, logprobs, topk } = sequence;
  if (tokens.length !== logprobs.length) {
    throw new WireFormatError('sequences', `${logprobs.length} logprobs for ${tokens.length} tokens`);
  }
  return create(pb.SampledSequenceSchema, {
    stopReason: sequence.stopReason === 'stop' ? pb.StopReason.STOP : pb.StopReason.LENGTH,
    tokens: packInt32(tokens),
    logprobs: packFloat32(logprobs),
    topkSampledLogprobs: topk && encodeTopk(topk),
  });
}

type AltTokens = NonNullable<EncodableSampleResponse['promptAltTokens']>;

function altTokenTensors({ k, tokens, logprobs }: AltTokens): PromptAltTokens {
  const shape = [k === 0 ? 0 : tokens.length / k, k];
  return {
    tokens: { data: tokens, dtype: 'int64', shape },
    logprobs: { data: logprobs, dtype: 'float32', shape },
  };
}

function encodeAltTokens(alternatives: AltTokens): pb.PromptAltTokens {
  const { tokens, logprobs } = altTokenTensors(alternatives);
  return create(pb.PromptAltTokensSchema, {
    tokens: encodeTensorData(tokens),
    logprobs: encodeTensorData(logprobs),
  });
}

/**
 * Body of a finished sample. Sequence ids are not in it: the submission's answer promised them in this order.
 *
 * @throws WireFormatError when a sequence's tokens and logprobs differ in number.
 */
export function encodeSampleResponse(result: EncodableSampleResponse): Uint8Array<ArrayBuffer> {
  const { promptLogprobs, topkPromptLogprobs, targetPromptLogprobs, promptAltTokens } = result;
  const message = create(pb.SampleResponseSchema, {
    sequences: result.sequences.map(encodeSequence),
    promptLogprobs: promptLogprobs && packFloat32(promptLogprobs),
    topkPromptLogprobs: topkPromptLogprobs && encodeTopk(topkPromptLogprobs),
    promptCacheHitTokens: result.promptCacheHitTokens ?? 0,
    targetPromptLogprobs: targetPromptLogprobs && encodeTensorData(targetPromptLogprobs),
    promptAltTokens: promptAltTokens && encodeAltTokens(promptAltTokens),
  });
  return toBinary(pb.SampleResponseSchema, message);
}

const nullWhereNaN = (values: Float32Array): (number | null)[] =>
  Array.from(values, (value) => (Number.isNaN(value) ? null : value));

function sequenceToJson(sequence: EncodableSequence): SampledSequence {
  return {
    stop_reason: sequence.stopReason,
    tokens: Array.from(sequence.tokens),
    logprobs: Array.from(sequence.logprobs),
    ...(sequence.topk && { topk_logprobs: topkRows(sequence.topk) }),
  };
}

/** A sample's result as plain data, for clients that do not read protobuf. */
export function sampleResponseToJson(result: EncodableSampleResponse): SampleResponse {
  const { promptLogprobs, topkPromptLogprobs, targetPromptLogprobs, promptAltTokens } = result;
  return {
    sequences: result.sequences.map(sequenceToJson),
    prompt_cache_hit_tokens: result.promptCacheHitTokens ?? 0,
    type: 'sample',
    ...(promptLogprobs && { prompt_logprobs: nullWhereNaN(promptLogprobs) }),
    ...(topkPromptLogprobs && { topk_prompt_logprobs: topkRows(topkPromptLogprobs) }),
    ...(targetPromptLogprobs && { target_prompt_logprobs: plainTensor(targetPromptLogprobs) }),
    ...(promptAltTokens && { prompt_alt_tokens: plainAltTokens(promptAltTokens) }),
  };
}

function plainTensor(tensor: TensorData): TensorData {
  return { ...tensor, data: Array.from(tensor.data) };
}

function plainAltTokens(alternatives: AltTokens): PromptAltTokens {
  const { tokens, logprobs } = altTokenTensors(alternatives);
  return { tokens: plainTensor(tokens), logprobs: plainTensor(logprobs) };
}

function decodeStopReason(reason: pb.StopReason, path: string): 'stop' | 'length' {
  if (reason === pb.StopReason.STOP) return 'stop';
  if (reason === pb.StopReason.LENGTH) return 'length';
  throw new WireFormatError(`${path}.stop_reason`, `${reason} is neither 0 (stop) nor 1 (length)`);
}

function decodeSequence(
  sequence: pb.SampledSequence,
  path: string,
  sequenceId: string | undefined,
): SampledSequence {
  const { logprobs, topkSampledLogprobs } = sequence;
  return {
    stop_reason: decodeStopReason(sequence.stopReason, path),
    sequence_id: sequenceId,
    tokens: Array.from(unpackInt32(sequence.tokens, `${path}.tokens`)),
    logprobs: logprobs && Array.from(unpackFloat32(logprobs, `${path}.logprobs`)),
    topk_logprobs:
      topkSampledLogprobs && topkRows(decodeTopk(topkSampledLogprobs, `${path}.topk_sampled_logprobs`)),
  };
}

function decodeAltTokens({ tokens, logprobs }: pb.PromptAltTokens): PromptAltTokens {
  if (!tokens || !logprobs) throw new WireFormatError('prompt_alt_tokens', 'lacks tokens or logprobs');
  return {
    tokens: decodeTensorData(tokens, 'prompt_alt_tokens.tokens'),
    logprobs: decodeTensorData(logprobs, 'prompt_alt_tokens.logprobs'),
  };
}

/**
 * Reads a finished sample.
 *
 * @param sequenceIds what the submission's answer promised, in order; becomes `sequence_id`.
 * @throws WireFormatError when the bytes are inconsistent, or hold another number of sequences than promised.
 */
export function decodeSampleResponse(bytes: Uint8Array, sequenceIds?: readonly string[]): SampleResponse {
  const message = fromBinary(pb.SampleResponseSchema, bytes);
  if (sequenceIds && sequenceIds.length !== message.sequences.length) {
    throw new WireFormatError(
      'sequences',
      `${message.sequences.length} came, ${sequenceIds.length} were promised`,
    );
  }
  const { promptLogprobs, topkPromptLogprobs, targetPromptLogprobs, promptAltTokens } = message;
  return {
    sequences: message.sequences.map((sequence, index) =>
      decodeSequence(sequence, `sequences[${index}]`, sequenceIds?.[index]),
    ),
    prompt_logprobs: promptLogprobs && nullWhereNaN(unpackFloat32(promptLogprobs, 'prompt_logprobs')),
    topk_prompt_logprobs:
      topkPromptLogprobs && topkRows(decodeTopk(topkPromptLogprobs, 'topk_prompt_logprobs')),
    target_prompt_logprobs:
      targetPromptLogprobs && decodeTensorData(targetPromptLogprobs, 'target_prompt_logprobs'),
    prompt_alt_tokens: promptAltTokens && decodeAltTokens(promptAltTokens),
    prompt_cache_hit_tokens: message.promptCacheHitTokens,
  };
}

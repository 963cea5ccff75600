/** forward_backward requests: protobuf to typed arrays (servers), and a batch to protobuf (clients). */
import { create, fromBinary, toBinary } from '@bufbuild/protobuf';
import type { ModelInputChunk } from '../chunks/model-input-chunk.ts';
import type { Datum } from '../datum.ts';
import type { ForwardBackwardInput } from '../forward-backward-input.ts';
import * as pb from '../gen/tinker_public_pb.ts';
import type { LossFnConfig } from '../loss-fn.ts';
import type { ProvenanceSpan } from '../provenance-span.ts';
import type { DenseTensor } from '../tensor-convert.ts';
import { packInt32, unpackInt32 } from './packed.ts';
import { decodeTensor, encodeTensorData } from './tensor.ts';
import { WireFormatError } from './wire-format-error.ts';

/** A piece of a model's input, token ids as a typed array. */
export type DecodedChunk =
  | { type: 'encoded_text'; tokens: Int32Array }
  | { type: 'image'; data: Uint8Array; format: string; expectedTokens?: number }
  | { type: 'image_asset_pointer'; location: string; format: string; expectedTokens?: number }
  | { type: 'dmel'; dmel: Uint8Array };

/** One training example as a server computes with it. */
export interface DecodedDatum {
  /** In order; empty text chunks included. */
  chunks: DecodedChunk[];
  /** The text chunks' token ids, one after the other. Without other chunks, the whole input. */
  tokens: Int32Array;
  /** Loss inputs by name; sparse ones are filled with 0. */
  inputs: Record<string, DenseTensor>;
}

/** A training request as a server computes with it, whichever way it came. */
export interface DecodedForwardBackwardRequest {
  modelId: string;
  /** Counts the model's requests from 1; absent in what JSON clients without a counter send. */
  seqId?: number;
  data: DecodedDatum[];
  lossFn: string;
  lossFnConfig: Record<string, number | string>;
  /** Loss and outputs only, no gradient. */
  forwardOnly: boolean;
}

/** The text chunks' token ids, one after the other. */
export function joinTokens(chunks: readonly DecodedChunk[]): Int32Array {
  const texts = chunks.flatMap((chunk) => (chunk.type === 'encoded_text' ? [chunk.tokens] : []));
  if (texts.length === 1) return texts[0]!;
  const tokens = new Int32Array(texts.reduce((total, text) => total + text.length, 0));
  let offset = 0;
  for (const text of texts) {
    tokens.set(text, offset);
    offset += text.length;
  }
  return tokens;
}

function decodeChunk(message: pb.Chunk, path: string): DecodedChunk {
  const { chunk } = message;
  switch (chunk.case) {
    case 'encodedText':
      return { type: 'encoded_text', tokens: unpackInt32(chunk.value.tokens, `${path}.tokens`) };
    case 'image': {
      const { data, format, expectedTokens, overrideDimensions } = chunk.value;
      if (overrideDimensions)
        throw new WireFormatError(
          `${path}.override_dimensions`,
          'is not supported: send the image in its size',
        );
      return { type: 'image', data, format, expectedTokens };
    }
    case 'dmel':
      return { type: 'dmel', dmel: chunk.value.dmel };
    default:
      throw new WireFormatError(path, 'is none of encoded_text, image, dmel');
  }
}

function decodeDatum(message: pb.Datum, path: string): DecodedDatum {
  const chunks = message.modelInput.map((chunk, index) =>
    decodeChunk(chunk, `${path}.model_input[${index}]`),
  );
  const inputs = Object.entries(message.lossFnInputs).map(
    ([name, tensor]) => [name, decodeTensor(tensor, `${path}.loss_fn_inputs.${name}`)] as const,
  );
  return { chunks, tokens: joinTokens(chunks), inputs: Object.fromEntries(inputs) };
}

/** Runs `decode`, whose errors then name the datum. */
export function atDatum<T>(index: number, decode: (path: string) => T): T {
  try {
    return decode(`data[${index}]`);
  } catch (error) {
    if (!(error instanceof WireFormatError)) throw error;
    const message = error.message.slice(error.path.length + 2);
    throw new WireFormatError(error.path, message, { datum: index, cause: error });
  }
}

/** The newer map wins when it has entries; it repeats the older one's numbers and may add texts. */
function decodeConfig(message: pb.ForwardBackwardRequest): Record<string, number | string> {
  const entries = Object.entries(message.lossFnConfigV2);
  if (entries.length === 0) return { ...message.lossFnConfig };
  return Object.fromEntries(
    entries.map(([name, { value }]) => {
      if (value.case) return [name, value.value];
      throw new WireFormatError(`loss_fn_config_v2.${name}`, 'holds neither a number nor a text');
    }),
  );
}

function parse(bytes: Uint8Array): pb.ForwardBackwardRequest {
  try {
    return fromBinary(pb.ForwardBackwardRequestSchema, bytes);
  } catch (error) {
    const message = `the body is no valid ForwardBackwardRequest: ${(error as Error).message}`;
    throw new WireFormatError('', message, { cause: error });
  }
}

/**
 * Reads the body of a forward_backward request. Provenance spans are dropped: only `stable_reinforce` reads them.
 *
 * @throws WireFormatError naming the datum and the field.
 */
export function decodeForwardBackwardRequest(bytes: Uint8Array): DecodedForwardBackwardRequest {
  const message = parse(bytes);
  if (!message.modelId) throw new WireFormatError('model_id', 'is missing');
  if (message.data.length === 0) throw new WireFormatError('data', 'must hold at least one datum');
  return {
    modelId: message.modelId,
    seqId: message.seqId,
    data: message.data.map((datum, index) => atDatum(index, (path) => decodeDatum(datum, path))),
    lossFn: message.lossFn,
    lossFnConfig: decodeConfig(message),
    forwardOnly: message.forwardOnly,
  };
}

function encodeChunk(chunk: ModelInputChunk, path: string): pb.Chunk {
  switch (chunk.type) {
    case 'encoded_text': {
      const value = create(pb.EncodedTextChunkSchema, { tokens: packInt32(chunk.tokens) });
      return create(pb.ChunkSchema, { chunk: { case: 'encodedText', value } });
    }
    case 'image': {
      const { data, format, expected_tokens } = chunk;
      const value = create(pb.ImageChunkSchema, {
        data,
        format,
        expectedTokens: expected_tokens ?? undefined,
      });
      return create(pb.ChunkSchema, { chunk: { case: 'image', value } });
    }
    case 'dmel': {
      const value = create(pb.DmelChunkSchema, { dmel: chunk.dmel });
      return create(pb.ChunkSchema, { chunk: { case: 'dmel', value } });
    }
    case 'image_asset_pointer':
      throw new WireFormatError(path, 'image_asset_pointer has no binary form: send the image itself');
  }
}

function encodeSpan(span: ProvenanceSpan): pb.ProvenanceSpan {
  const { sequence_id: sequenceId } = span;
  const value = { sequenceId, offset: BigInt(span.offset), length: BigInt(span.length) };
  if (span.type === 'prompt_tokens') {
    const prompt = create(pb.PromptProvenanceSpanSchema, value);
    return create(pb.ProvenanceSpanSchema, { span: { case: 'promptTokens', value: prompt } });
  }
  const sampled = create(pb.SampledProvenanceSpanSchema, value);
  return create(pb.ProvenanceSpanSchema, { span: { case: 'sampledTokens', value: sampled } });
}

function encodeDatum(datum: Datum, path: string): pb.Datum {
  const inputs = Object.entries(datum.loss_fn_inputs).map(([name, tensor]) => [
    name,
    encodeTensorData(tensor),
  ]);
  return create(pb.DatumSchema, {
    modelInput: datum.model_input.chunks.map((chunk, index) =>
      encodeChunk(chunk, `${path}.model_input[${index}]`),
    ),
    lossFnInputs: Object.fromEntries(inputs),
    modelInputSpans: (datum.model_input_spans ?? []).map(encodeSpan),
    lossFnInputSpans: (datum.loss_fn_input_spans ?? []).map(encodeSpan),
  });
}

/** Numbers go into both maps, so that servers which only know the older one see them. */
function encodeConfig(
  config: LossFnConfig,
): Pick<pb.ForwardBackwardRequest, 'lossFnConfig' | 'lossFnConfigV2'> {
  const lossFnConfig: Record<string, number> = {};
  const lossFnConfigV2: Record<string, pb.LossConfigValue> = {};
  for (const [name, value] of Object.entries(config)) {
    if (typeof value === 'number') lossFnConfig[name] = value;
    lossFnConfigV2[name] = create(pb.LossConfigValueSchema, {
      value: typeof value === 'number' ? { case: 'number', value } : { case: 'text', value },
    });
  }
  return { lossFnConfig, lossFnConfigV2 };
}

/** What a client sends to forward_backward. */
export interface ForwardBackwardSubmission {
  model_id: string;
  seq_id: number;
  input: ForwardBackwardInput;
  forward_only?: boolean;
}

/**
 * Body of a forward_backward request.
 *
 * @throws WireFormatError for chunks that have no binary form.
 */
export function encodeForwardBackwardRequest(submission: ForwardBackwardSubmission): Uint8Array<ArrayBuffer> {
  const { input } = submission;
  const message = create(pb.ForwardBackwardRequestSchema, {
    modelId: submission.model_id,
    seqId: submission.seq_id,
    data: input.data.map((datum, index) => atDatum(index, (path) => encodeDatum(datum, path))),
    lossFn: input.loss_fn,
    forwardOnly: submission.forward_only ?? false,
    ...encodeConfig(input.loss_fn_config ?? {}),
  });
  return toBinary(pb.ForwardBackwardRequestSchema, message);
}

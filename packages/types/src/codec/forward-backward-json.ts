/** forward_backward in JSON, as SDKs before 0.25 speak it: requests to typed arrays, results to plain data. */
import type { ModelInputChunk } from '../chunks/model-input-chunk.ts';
import type { Datum } from '../datum.ts';
import type { ForwardBackwardOutput } from '../forward-backward-output.ts';
import type { ForwardBackwardRequest, ForwardRequest } from '../forward-backward-request.ts';
import { type DenseTensor, toTyped } from '../tensor-convert.ts';
import type { TensorData } from '../tensor-data.ts';
import type { EncodableForwardBackwardOutput } from './forward-backward-output.ts';
import {
  atDatum,
  type DecodedChunk,
  type DecodedDatum,
  type DecodedForwardBackwardRequest,
  joinTokens,
} from './forward-backward-request.ts';
import { WireFormatError } from './wire-format-error.ts';

/** A chunk of JSON in the form that the binary way gives. */
export function decodeJsonChunk(chunk: ModelInputChunk): DecodedChunk {
  switch (chunk.type) {
    case 'encoded_text':
      return { type: 'encoded_text', tokens: Int32Array.from(chunk.tokens) };
    case 'image':
    case 'image_asset_pointer': {
      const { expected_tokens, ...image } = chunk;
      return { ...image, expectedTokens: expected_tokens ?? undefined };
    }
    case 'dmel':
      return { type: 'dmel', dmel: chunk.dmel };
  }
}

function decodeJsonTensor(tensor: TensorData, path: string): DenseTensor {
  try {
    return toTyped(tensor);
  } catch (error) {
    throw new WireFormatError(path, (error as Error).message, { cause: error });
  }
}

function decodeJsonDatum(datum: Datum, path: string): DecodedDatum {
  const chunks = datum.model_input.chunks.map(decodeJsonChunk);
  const inputs = Object.entries(datum.loss_fn_inputs).map(
    ([name, tensor]) => [name, decodeJsonTensor(tensor, `${path}.loss_fn_inputs.${name}`)] as const,
  );
  return { chunks, tokens: joinTokens(chunks), inputs: Object.fromEntries(inputs) };
}

/**
 * A parsed JSON request in the form that the binary way gives.
 *
 * @throws WireFormatError naming the datum and the field.
 */
export function decodeForwardBackwardJson(
  request: ForwardBackwardRequest | ForwardRequest,
): DecodedForwardBackwardRequest {
  const forwardOnly = 'forward_input' in request;
  const input = forwardOnly ? request.forward_input : request.forward_backward_input;
  return {
    modelId: request.model_id,
    seqId: request.seq_id ?? undefined,
    data: input.data.map((datum, index) => atDatum(index, (path) => decodeJsonDatum(datum, path))),
    lossFn: input.loss_fn,
    lossFnConfig: { ...input.loss_fn_config },
    forwardOnly,
  };
}

function tensorToJson(tensor: DenseTensor): TensorData {
  return {
    data: Array.from(tensor.data as ArrayLike<number | bigint>, Number),
    dtype: tensor.dtype === 'float32' ? 'float32' : 'int64',
    shape: [...tensor.shape],
  };
}

/** A training result as plain data, for clients that do not read protobuf. */
export function forwardBackwardOutputToJson(output: EncodableForwardBackwardOutput): ForwardBackwardOutput {
  return {
    loss_fn_output_type: output.lossFnOutputType ?? 'ArrayRecord',
    loss_fn_outputs: output.outputs.map((record) =>
      Object.fromEntries(Object.entries(record).map(([name, tensor]) => [name, tensorToJson(tensor)])),
    ),
    metrics: { ...output.metrics },
  };
}

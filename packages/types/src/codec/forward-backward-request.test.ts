import { readFileSync } from 'node:fs';
import { create, fromBinary, toBinary } from '@bufbuild/protobuf';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import * as pb from '../gen/tinker_public_pb.ts';
import {
  Datum,
  decodeForwardBackwardJson,
  decodeForwardBackwardRequest,
  encodeForwardBackwardRequest,
  ForwardBackwardInput,
  ForwardRequest,
  ModelInput,
  WireFormatError,
  wire,
} from '../index.ts';

const fixture = (name: string) =>
  new Uint8Array(readFileSync(new URL(`../../fixtures/${name}.bin`, import.meta.url)));

const text = (...tokens: number[]) => ({ type: 'encoded_text' as const, tokens });

/** The batch of the Python SDK's fixture, built with our types. */
function fixtureBatch(): ForwardBackwardInput {
  const spans = [
    { type: 'prompt_tokens' as const, sequence_id: 's:sample:0:0:0', offset: 0, length: 2 },
    { type: 'sampled_tokens' as const, sequence_id: 's:sample:0:0:0', offset: 1, length: 1 },
  ];
  const sparse = {
    data: [7, 8, 9],
    dtype: 'int64' as const,
    shape: [3, 4],
    sparse_crow_indices: [0, 1, 1, 3],
    sparse_col_indices: [2, 0, 3],
  };
  const grid = [0, 1, 2].map((row) => [0, 1, 2, 3].map((column) => 4 * row + column));
  const image = { type: 'image' as const, data: Buffer.from('\x89PNG', 'latin1'), format: 'png' as const };
  return ForwardBackwardInput.parse({
    loss_fn: 'ppo',
    loss_fn_config: { clip_low_threshold: 0.8, loss_id: 'text' },
    data: [
      Datum.from({
        model_input: { chunks: [text(1, 2), text(), text(300000)] },
        loss_fn_inputs: { target_tokens: [2, 3, 2 ** 31 - 1], weights: [0, -1.5, 0.25] },
        model_input_spans: spans,
        loss_fn_input_spans: spans,
      }),
      Datum.from({
        model_input: ModelInput.fromInts([4, 5, 6]),
        loss_fn_inputs: { target_tokens: sparse, weights: grid },
      }),
      Datum.from({
        model_input: { chunks: [{ ...image, expected_tokens: 3 }, text(9)] },
        loss_fn_inputs: { target_tokens: new BigInt64Array([9n]), weights: new Float64Array([1]) },
      }),
    ],
  });
}

test('reads what the Python SDK wrote', () => {
  const request = decodeForwardBackwardRequest(fixture('forward_backward_request'));
  expect(request).toMatchObject({
    modelId: '7c9e:train:0',
    seqId: 12,
    lossFn: 'ppo',
    lossFnConfig: { clip_low_threshold: 0.8, loss_id: 'text' },
    forwardOnly: false,
  });
  const [first, second, third] = request.data;
  expect(first?.tokens).toEqual(Int32Array.of(1, 2, 300000));
  expect(first?.inputs).toEqual({
    target_tokens: { dtype: 'int64', shape: [3], data: BigInt64Array.of(2n, 3n, 2147483647n) },
    weights: { dtype: 'float32', shape: [3], data: Float32Array.of(0, -1.5, 0.25) },
  });
  const dense = BigInt64Array.of(0n, 0n, 7n, 0n, 0n, 0n, 0n, 0n, 8n, 0n, 0n, 9n);
  expect(second?.inputs.target_tokens).toEqual({ dtype: 'int64', shape: [3, 4], data: dense });
  expect(second?.inputs.weights).toEqual({
    dtype: 'float32',
    shape: [3, 4],
    data: Float32Array.from({ length: 12 }, (_, index) => index),
  });
  expect(third?.chunks.map((chunk) => chunk.type)).toEqual(['image', 'encoded_text']);
  expect(third?.chunks[0]).toMatchObject({ format: 'png', expectedTokens: 3 });
});

test('writes byte for byte what the Python SDK wrote', () => {
  const bytes = encodeForwardBackwardRequest({ model_id: '7c9e:train:0', seq_id: 12, input: fixtureBatch() });
  expect(Buffer.from(bytes).equals(fixture('forward_backward_request'))).toBe(true);
});

test('widens bfloat16, keeps int32, falls back to the older config map', () => {
  const request = decodeForwardBackwardRequest(fixture('forward_only_request_bf16'));
  expect(request).toMatchObject({ forwardOnly: true, lossFnConfig: { beta: 0.5 } });
  expect(request.data[0]?.inputs).toEqual({
    weights: { dtype: 'float32', shape: [3], data: Float32Array.of(1, -2.5, 3.140625) },
    target_tokens: { dtype: 'int32', shape: [3], data: Int32Array.of(1, 2, 3) },
  });
});

test('reads a body that starts at an odd address', () => {
  const bytes = fixture('forward_backward_request');
  const shifted = new Uint8Array(bytes.length + 1);
  shifted.set(bytes, 1);
  expect(decodeForwardBackwardRequest(shifted.subarray(1))).toEqual(decodeForwardBackwardRequest(bytes));
});

function broken(change: (message: pb.ForwardBackwardRequest) => void): Uint8Array {
  const message = fromBinary(pb.ForwardBackwardRequestSchema, fixture('forward_backward_request'));
  change(message);
  return toBinary(pb.ForwardBackwardRequestSchema, message);
}

const brokenRequests: [string, (message: pb.ForwardBackwardRequest) => void, string, number | undefined][] = [
  ['no model', (message) => (message.modelId = ''), 'model_id', undefined],
  ['no data', (message) => (message.data = []), 'data', undefined],
  [
    'odd token bytes',
    ({ data }) => {
      data[1]!.modelInput[0]!.chunk = { case: 'encodedText', value: bytesChunk(5) };
    },
    'data[1].model_input[0].tokens',
    1,
  ],
  [
    'empty chunk',
    ({ data }) => (data[0]!.modelInput[1] = create(pb.ChunkSchema)),
    'data[0].model_input[1]',
    0,
  ],
  [
    'an image in another size than its own',
    ({ data }) => {
      const image = data[2]!.modelInput[0]!.chunk.value as pb.ImageChunk;
      image.overrideDimensions = create(pb.ImageDimensionsSchema, { width: 2, height: 2 });
    },
    'data[2].model_input[0].override_dimensions',
    2,
  ],
  [
    'values and shape disagree',
    ({ data }) => (data[0]!.lossFnInputs.weights!.shape = [2n]),
    'data[0].loss_fn_inputs.weights.shape',
    0,
  ],
  [
    'negative dimension',
    ({ data }) => (data[0]!.lossFnInputs.weights!.shape = [-3n]),
    'data[0].loss_fn_inputs.weights',
    0,
  ],
  [
    'no dtype',
    ({ data }) => (data[2]!.lossFnInputs.weights!.dtype = pb.DType.DTYPE_UNSPECIFIED),
    'data[2].loss_fn_inputs.weights',
    2,
  ],
  [
    'sparse tensor that would fill the memory',
    ({ data }) => (data[1]!.lossFnInputs.target_tokens!.shape = [3n, 2n ** 31n]),
    'data[1].loss_fn_inputs.target_tokens',
    1,
  ],
  [
    'sparse rows beyond the indices',
    ({ data }) => (data[1]!.lossFnInputs.target_tokens!.shape = [4n, 4n]),
    'data[1].loss_fn_inputs.target_tokens.sparse_crow_indices',
    1,
  ],
  [
    'sparse column outside',
    ({ data }) => (data[1]!.lossFnInputs.target_tokens!.shape = [3n, 3n]),
    'data[1].loss_fn_inputs.target_tokens.sparse_col_indices',
    1,
  ],
];

function bytesChunk(length: number): pb.EncodedTextChunk {
  return create(pb.EncodedTextChunkSchema, { tokens: new Uint8Array(length) });
}

test.each(brokenRequests)('%s: refused, naming the place', (_name, change, path, datum) => {
  const error = catchError(() => decodeForwardBackwardRequest(broken(change)));
  expect(error).toBeInstanceOf(WireFormatError);
  expect(error).toMatchObject({ path, datum });
  expect((error as Error).message).toContain(path);
});

function catchError(run: () => unknown): unknown {
  try {
    return run();
  } catch (error) {
    return error;
  }
}

test('a truncated or garbled body is a WireFormatError or a smaller request, never a crash', () => {
  const bytes = fixture('forward_backward_request');
  const garbled = fc
    .tuple(fc.nat(bytes.length), fc.array(fc.tuple(fc.nat(bytes.length - 1), fc.nat(255)), { maxLength: 4 }))
    .map(([length, flips]) => {
      const copy = bytes.slice();
      for (const [index, value] of flips) copy[index] = value;
      return copy.subarray(0, length);
    });
  fc.assert(
    fc.property(garbled, (body) => {
      const result = catchError(() => decodeForwardBackwardRequest(body));
      if (result instanceof Error) expect(result).toBeInstanceOf(WireFormatError);
    }),
    { numRuns: 500 },
  );
});

test('an input named __proto__ stays an input', () => {
  const batch = fixtureBatch();
  const tensor = batch.data[0]!.loss_fn_inputs.weights!;
  batch.data[0]!.loss_fn_inputs = Object.fromEntries([['__proto__', tensor]]);
  const bytes = encodeForwardBackwardRequest({ model_id: 'm', seq_id: 1, input: batch });
  const inputs = decodeForwardBackwardRequest(bytes).data[0]!.inputs;
  expect(Object.getPrototypeOf(inputs)).toBe(Object.prototype);
  expect(({} as Record<string, unknown>).dtype).toBeUndefined();
});

const token = fc.integer({ min: 0, max: 2 ** 31 - 1 });
const datum = fc.array(token, { minLength: 1, maxLength: 8 }).chain((tokens) =>
  fc.record({
    tokens: fc.constant(tokens),
    targets: fc.array(token, { minLength: tokens.length, maxLength: tokens.length }),
    weights: fc.array(fc.float({ noNaN: true }), { minLength: tokens.length, maxLength: tokens.length }),
  }),
);

test('what is encoded decodes to the same values, in protobuf and in JSON', () => {
  fc.assert(
    fc.property(fc.array(datum, { minLength: 1, maxLength: 4 }), fc.boolean(), (batch, forward_only) => {
      const input = ForwardBackwardInput.parse({
        loss_fn: 'cross_entropy',
        data: batch.map(({ tokens, targets, weights }) =>
          Datum.from({
            model_input: ModelInput.fromInts(tokens),
            loss_fn_inputs: { target_tokens: targets, weights: Float32Array.from(weights) },
          }),
        ),
      });
      const bytes = encodeForwardBackwardRequest({ model_id: 'm', seq_id: 3, input, forward_only });
      const decoded = decodeForwardBackwardRequest(bytes);
      expect(decoded.forwardOnly).toBe(forward_only);
      batch.forEach(({ tokens, targets, weights }, index) => {
        expect(Array.from(decoded.data[index]!.tokens)).toEqual(tokens);
        expect(Array.from(decoded.data[index]!.inputs.target_tokens!.data as BigInt64Array, Number)).toEqual(
          targets,
        );
        expect(decoded.data[index]!.inputs.weights!.data).toEqual(Float32Array.from(weights));
      });
      const json = JSON.stringify({
        forward_input: ForwardBackwardInput.encode(input),
        model_id: 'm',
        seq_id: 3,
      });
      if (weightsAreFinite(batch)) {
        const fromJson = decodeForwardBackwardJson(wire(ForwardRequest).parse(JSON.parse(json)));
        expect(fromJson).toEqual({ ...decoded, forwardOnly: true });
      }
    }),
  );
});

function weightsAreFinite(batch: { weights: number[] }[]): boolean {
  // JSON has neither infinities nor a negative zero.
  return batch.every(({ weights }) =>
    weights.every((weight) => Number.isFinite(weight) && !Object.is(weight, -0)),
  );
}

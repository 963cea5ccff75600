import { readFileSync } from 'node:fs';
import { create, fromBinary, toBinary } from '@bufbuild/protobuf';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import * as pb from '../gen/tinker_public_pb.ts';
import {
  type DenseTensor,
  decodeForwardBackwardOutput,
  decodeSampleResponse,
  type EncodableSampleResponse,
  encodeForwardBackwardOutput,
  encodeSampleResponse,
  ForwardBackwardOutput,
  forwardBackwardOutputToJson,
  SampleResponse,
  sampleResponseToJson,
  WireFormatError,
} from '../index.ts';

const fixture = (name: string) =>
  new Uint8Array(readFileSync(new URL(`../../fixtures/${name}.bin`, import.meta.url)));

const float = (shape: number[], ...values: number[]): DenseTensor => ({
  dtype: 'float32',
  shape,
  data: Float32Array.from(values),
});

test('reads a training result that the Python classes wrote: records of different K, with and without num_datums', () => {
  const output = decodeForwardBackwardOutput(fixture('forward_backward_output'));
  expect(output.loss_fn_output_type).toBe('TorchLossReturn');
  expect(output.metrics).toEqual({ 'loss:sum': 3.5 });
  expect(output.loss_fn_outputs.map((record) => record.logprobs)).toEqual([
    { dtype: 'float32', shape: [2], data: Float32Array.of(-0.5, -1) },
    { dtype: 'float32', shape: [1], data: Float32Array.of(-1.5) },
    { dtype: 'float32', shape: [2, 3], data: Float32Array.of(0, 1, 2, 3, 4, 5) },
  ]);
});

test('writes byte offsets, and a record of its own for each change of trailing shape', () => {
  const bytes = encodeForwardBackwardOutput({
    outputs: [
      { logprobs: float([2], -1, -2) },
      { logprobs: float([1], -3) },
      { logprobs: float([1, 2], -4, -5) },
      { logprobs: float([1], -6) },
    ],
    metrics: { 'loss:sum': 1 },
  });
  const message = fromBinary(pb.ForwardBackwardOutputSchema, bytes);
  const records = message.lossFnOutputs.map(({ numDatums, fields }) => ({
    datums: Number(numDatums),
    trailing: fields.logprobs!.trailingShape.map(Number),
    offsets: Array.from(new BigInt64Array(fields.logprobs!.offsets.slice().buffer), Number),
  }));
  expect(records).toEqual([
    { datums: 2, trailing: [], offsets: [0, 8, 12] },
    { datums: 1, trailing: [2], offsets: [0, 8] },
    { datums: 1, trailing: [], offsets: [0, 4] },
  ]);
  const decoded = decodeForwardBackwardOutput(bytes);
  expect(decoded.loss_fn_outputs.map(({ logprobs }) => logprobs?.shape)).toEqual([[2], [1], [1, 2], [1]]);
  expect(decoded.loss_fn_outputs.flatMap(({ logprobs }) => Array.from(logprobs!.data))).toEqual([
    -1, -2, -3, -4, -5, -6,
  ]);
});

test('refuses datums that disagree in names, and tensors that do not fill their shape', () => {
  const metrics = {};
  const mixed: Record<string, DenseTensor>[] = [{ logprobs: float([1], 0) }, { other: float([1], 0) }];
  expect(() => encodeForwardBackwardOutput({ outputs: mixed, metrics })).toThrow(/loss_fn_outputs\[1\]/);
  const short = [{ logprobs: float([2], 0) }];
  expect(() => encodeForwardBackwardOutput({ outputs: short, metrics })).toThrow(
    /\[2\] does not hold 1 values/,
  );
});

test('refuses offsets outside of the data', () => {
  const message = fromBinary(pb.ForwardBackwardOutputSchema, fixture('forward_backward_output'));
  message.lossFnOutputs[0]!.fields.logprobs!.offsets = new Uint8Array(
    new BigInt64Array([0n, 8n, 16n]).buffer,
  );
  expect(() => decodeForwardBackwardOutput(toBinary(pb.ForwardBackwardOutputSchema, message))).toThrow(
    WireFormatError,
  );
});

const tensors = fc.array(
  fc
    .record({ rows: fc.nat(4), columns: fc.option(fc.integer({ min: 1, max: 3 }), { nil: undefined }) })
    .chain(({ rows, columns }) => {
      const size = rows * (columns ?? 1);
      const shape = columns === undefined ? [rows] : [rows, columns];
      return fc
        .float32Array({ minLength: size, maxLength: size })
        .map((data): DenseTensor => ({ dtype: 'float32', shape, data }));
    }),
  { minLength: 1, maxLength: 6 },
);

test('any batch of results survives the wire in request order', () => {
  fc.assert(
    fc.property(tensors, (batch) => {
      const outputs = batch.map((logprobs) => ({ logprobs }));
      const decoded = decodeForwardBackwardOutput(
        encodeForwardBackwardOutput({ outputs, metrics: { 'a:sum': 1 } }),
      );
      expect(decoded.loss_fn_outputs.map(({ logprobs }) => logprobs)).toEqual(batch);
      expect(decoded.metrics).toEqual({ 'a:sum': 1 });
    }),
  );
});

/** The sample of the Python fixture as a server has it. */
const sample: EncodableSampleResponse = {
  sequences: [
    { stopReason: 'stop', tokens: Int32Array.of(11, 2), logprobs: Float32Array.of(-1, -2) },
    {
      stopReason: 'length',
      tokens: Int32Array.of(3),
      logprobs: Float32Array.of(-3),
      topk: { k: 1, length: 1, tokenIds: Int32Array.of(4), logprobs: Float32Array.of(-0.125) },
    },
  ],
  promptLogprobs: Float32Array.of(Number.NaN, -0.25, -0.5),
  topkPromptLogprobs: {
    k: 2,
    length: 3,
    tokenIds: Int32Array.of(0, 0, 5, 6, 7, 0),
    logprobs: Float32Array.of(-99999, -99999, -0.25, -2, -0.5, -99999),
  },
  targetPromptLogprobs: {
    data: [-0.75],
    dtype: 'float32',
    shape: [2, 2],
    sparse_crow_indices: [0, 0, 1],
    sparse_col_indices: [1],
  },
  promptAltTokens: { k: 1, tokens: Int32Array.of(1, 2), logprobs: Float32Array.of(-1, -2) },
  promptCacheHitTokens: 2,
};

test('writes byte for byte the sample that the Python classes wrote', () => {
  expect(Buffer.from(encodeSampleResponse(sample)).equals(fixture('sample_response'))).toBe(true);
});

test('reads that sample, with the promised sequence ids', () => {
  const response = decodeSampleResponse(fixture('sample_response'), ['a', 'b']);
  expect(SampleResponse.parse(response)).toEqual(response);
  expect(response.sequences).toEqual([
    { stop_reason: 'stop', sequence_id: 'a', tokens: [11, 2], logprobs: [-1, -2] },
    { stop_reason: 'length', sequence_id: 'b', tokens: [3], logprobs: [-3], topk_logprobs: [[[4, -0.125]]] },
  ]);
  expect(response.prompt_logprobs).toEqual([null, -0.25, -0.5]);
  expect(response.topk_prompt_logprobs).toEqual([
    null,
    [
      [5, -0.25],
      [6, -2],
    ],
    [[7, -0.5]],
  ]);
  expect(response.target_prompt_logprobs).toMatchObject({ shape: [2, 2], sparse_col_indices: [1] });
  expect(response.prompt_alt_tokens?.tokens).toMatchObject({ dtype: 'int64', shape: [2, 1], data: [1, 2] });
  expect(() => decodeSampleResponse(fixture('sample_response'), ['a'])).toThrow(/2 came, 1 were promised/);
});

test('the JSON form says the same as the binary one, and is valid JSON', () => {
  const json = SampleResponse.parse(JSON.parse(JSON.stringify(sampleResponseToJson(sample))));
  const { type, ...rest } = json;
  expect(type).toBe('sample');
  const binary = decodeSampleResponse(encodeSampleResponse(sample));
  expect(rest).toEqual(SampleResponse.parse(JSON.parse(JSON.stringify(SampleResponse.encode(binary)))));
  const training = { outputs: [{ logprobs: float([2], -1, -2) }], metrics: { 'loss:sum': 3 } };
  expect(
    ForwardBackwardOutput.parse(JSON.parse(JSON.stringify(forwardBackwardOutputToJson(training)))),
  ).toEqual({
    loss_fn_output_type: 'ArrayRecord',
    loss_fn_outputs: [{ logprobs: { data: [-1, -2], dtype: 'float32', shape: [2] } }],
    metrics: { 'loss:sum': 3 },
  });
});

test('stop is the absent value: an empty sequence message reads as stop', () => {
  const message = create(pb.SampleResponseSchema, { sequences: [create(pb.SampledSequenceSchema)] });
  const [sequence] = decodeSampleResponse(toBinary(pb.SampleResponseSchema, message)).sequences;
  expect(sequence).toMatchObject({ stop_reason: 'stop', tokens: [] });
});

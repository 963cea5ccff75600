import { readFileSync } from 'node:fs';
import { expect, expectTypeOf, test } from 'vitest';
import * as z from 'zod';
import * as types from './index.ts';

const exported: Record<string, unknown> = { ...types };
const schemas = Object.entries(exported).filter(
  (entry): entry is [string, z.ZodType] => entry[1] instanceof z.ZodType,
);

const json = (name: string) =>
  JSON.parse(readFileSync(new URL(`../fixtures/${name}`, import.meta.url), 'utf8'));

/** Types that refuse unknown fields when a user builds one. */
const STRICT = [
  'AdamParams',
  'LoraConfig',
  'ModelInput',
  'EncodedTextChunk',
  'ImageChunk',
  'ImageAssetPointerChunk',
  'TensorData',
  'Datum',
  'ForwardBackwardInput',
  'CreateModelRequest',
  'SaveWeightsRequest',
  'LoadWeightsRequest',
  'SaveWeightsForSamplerRequest',
  'CreateSamplingSessionRequest',
  'SampleRequest',
  'FutureRetrieveRequest',
  'TelemetrySendRequest',
];

/** Types that ignore what they do not know. */
const LENIENT = [
  'SamplingParams',
  'ForwardBackwardOutput',
  'OptimStepResponse',
  'ModelData',
  'GetInfoResponse',
  'SupportedModel',
  'GetServerCapabilitiesResponse',
  'SaveWeightsResponse',
  'LoadWeightsResponse',
  'SaveWeightsForSamplerResponse',
  'SaveWeightsForSamplerResponseInternal',
  'CreateSamplingSessionResponse',
  'SampleResponse',
  'SampledSequence',
  'TryAgainResponse',
  'Checkpoint',
  'CheckpointsListResponse',
  'ParsedCheckpointTinkerPath',
  'CheckpointArchiveUrlResponse',
  'WeightsInfoResponse',
  'TrainingRun',
  'TrainingRunsResponse',
  'Cursor',
  'TelemetryBatch',
  'GenericEvent',
  'SessionStartEvent',
  'SessionEndEvent',
  'UnhandledExceptionEvent',
];

function schemaNamed(name: string): z.ZodType {
  const found = schemas.find(([key]) => key === name);
  if (!found) throw new Error(`${name} is not exported`);
  return found[1];
}

const unknownField = 'a_field_of_the_future';

function refusesUnknown(schema: z.ZodType): boolean {
  return types.unknownFields(schema, { [unknownField]: 1 }).includes(unknownField);
}

test.each(STRICT)('%s refuses unknown fields, its wire form does not', (name) => {
  expect(refusesUnknown(schemaNamed(name))).toBe(true);
  expect(refusesUnknown(types.wire(schemaNamed(name)))).toBe(false);
});

test.each(LENIENT)('%s ignores unknown fields', (name) => {
  expect(refusesUnknown(schemaNamed(name))).toBe(false);
});

test('every schema, strict and tolerant, has a JSON Schema', () => {
  for (const [, schema] of schemas) {
    for (const io of ['input', 'output'] as const) {
      z.toJSONSchema(schema, { io, unrepresentable: 'any' });
      z.toJSONSchema(types.wire(schema), { io, unrepresentable: 'any', metadata: types.wireRegistry });
    }
  }
  const lora = z.toJSONSchema(types.wire(types.LoraConfig), {
    io: 'input',
    unrepresentable: 'any',
    metadata: types.wireRegistry,
  });
  expect(lora.$defs?.LoraConfig?.properties?.rank).toMatchObject({ type: 'integer', default: 32 });
});

test('defaults are those of the Python SDK', () => {
  const defaults = json('sdk_defaults.json');
  expect(types.AdamParams.parse({})).toEqual(defaults.AdamParams);
  const { max_tokens, seed, stop, ...sampling } = defaults.SamplingParams;
  expect([max_tokens, seed, stop]).toEqual([null, null, null]);
  expect(types.SamplingParams.parse({})).toEqual(sampling);
  expect(types.SamplingParams.parse(defaults.SamplingParams)).toMatchObject(sampling);
  expect(types.LoraConfig.parse({ rank: 8, seed: 2 ** 40 })).toEqual({
    ...defaults.LoraConfig,
    seed: 2n ** 40n,
  });
});

const refusals: [string, unknown, string][] = [
  ['LoraConfig', { rank: 0 }, 'positive integer'],
  ['LoraConfig', { rank: 1.5 }, 'whole number'],
  ['LoraConfig', { train_mlp: false, train_attn: false, train_unembed: false }, 'nothing to train'],
  ['AdamParams', { beta1: 1 }, 'beta1 must be in [0, 1)'],
  ['AdamParams', { lr: 1 }, 'lr'],
  ['SamplingParams', { top_k: 0 }, 'top_k must be -1'],
  ['SamplingParams', { top_p: 0 }, 'top_p must be in (0, 1]'],
  ['SamplingParams', { temperature: -1 }, 'must not be negative'],
  ['SamplingParams', { seed: -1 }, 'between 0 and 2^64-1'],
  ['SamplingParams', { seed: 2n ** 64n }, 'between 0 and 2^64-1'],
  ['SaveWeightsRequest', { model_id: 'm', path: 'a/b' }, 'must not contain "/"'],
  ['SaveWeightsRequest', { model_id: 'm', ttl_seconds: 60 }, 'at least 3600'],
  [
    'CreateSamplingSessionRequest',
    { session_id: 's', sampling_session_seq_id: 0 },
    'base_model or model_path',
  ],
  [
    'LoadWeightsRequest',
    { path: 'tinker://r/weights/n', optimizer: true },
    'model_id and seq_id, or session_id',
  ],
  [
    'SampleRequest',
    { prompt: { chunks: [] }, sampling_params: {}, sampling_session_id: 's' },
    'required with',
  ],
  ['ForwardBackwardInput', { data: [], loss_fn: 'ppo' }, 'at least one datum'],
  ['TensorData', { data: [1, 2], dtype: 'int64', shape: [3] }, '[3] holds 3 values, data has 2'],
  ['TensorData', { data: [[1]], dtype: 'int64' }, 'TensorData.fromArray'],
  [
    'TensorData',
    { data: [1], dtype: 'int64', shape: [1, 1], sparse_col_indices: [0] },
    'sparse_crow_indices',
  ],
];

test.each(refusals)('%s refuses %o', (name, value, message) => {
  const result = schemaNamed(name).safeParse(value);
  expect(result.success).toBe(false);
  expect(z.prettifyError(result.error!)).toContain(message);
});

test('an image is bytes in memory and base64 in JSON', () => {
  const bytes = Uint8Array.of(0x89, 0x50, 0xff, 0);
  const chunk = types.ImageChunk.parse({ data: bytes, format: 'png', type: 'image' });
  const wire = types.ImageChunk.encode(chunk);
  expect(wire.data).toBe(Buffer.from(bytes).toString('base64'));
  expect(types.ImageChunk.parse(JSON.parse(JSON.stringify(wire)))).toEqual(chunk);
});

test('an unknown error category reads as unknown', () => {
  expect(types.RequestFailedResponse.parse({ error: 'x', category: 'cosmic' }).category).toBe('unknown');
});

test('the optimizer parameters come under one of three names', () => {
  const adam_params = types.AdamParams.parse({});
  const request = { model_id: 'm', seq_id: 1 };
  expect(types.OptimStepRequest.parse({ ...request, adam_params }).adam_params).toEqual(adam_params);
  expect(types.OptimStepRequest.parse({ ...request, optim_params: {} }).optim_params).toEqual(adam_params);
  expect(
    types.OptimStepRequest.safeParse({ ...request, adam_params, optim_params: adam_params }).success,
  ).toBe(false);
});

test('types follow the schemas', () => {
  expectTypeOf<types.AdamParams['learning_rate']>().toEqualTypeOf<number>();
  expectTypeOf<z.input<typeof types.AdamParams>['learning_rate']>().toEqualTypeOf<number | undefined>();
  expectTypeOf<types.SampleRequest['seq_id']>().toEqualTypeOf<bigint | null | undefined>();
  expectTypeOf<z.input<typeof types.SamplingParams>['seed']>().toEqualTypeOf<
    number | bigint | null | undefined
  >();
  expectTypeOf(types.ModelInput.fromInts).returns.toEqualTypeOf<types.ModelInput>();
  expectTypeOf(types.wire(types.Datum)).toEqualTypeOf<typeof types.Datum>();
});

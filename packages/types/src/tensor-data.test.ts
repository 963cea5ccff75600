import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Datum, ModelInput, type NestedArray, TensorData } from './index.ts';

const grid = fc
  .record({ rows: fc.integer({ min: 1, max: 4 }), columns: fc.integer({ min: 1, max: 4 }) })
  .chain(({ rows, columns }) => {
    const row = fc.array(fc.integer({ min: -(2 ** 40), max: 2 ** 40 }), {
      minLength: columns,
      maxLength: columns,
    });
    return fc.array(row, { minLength: rows, maxLength: rows });
  });

test('nested arrays survive', () => {
  fc.assert(
    fc.property(grid, (rows) => {
      const tensor = TensorData.fromArray(rows);
      expect(TensorData.parse(tensor)).toEqual(tensor);
      expect(tensor).toMatchObject({ dtype: 'int64', shape: [rows.length, rows[0]?.length] });
      expect(TensorData.toNested(tensor)).toEqual(rows);
      expect(Array.from(TensorData.toTyped(tensor).data, Number)).toEqual(rows.flat());
    }),
  );
});

test('typed arrays survive', () => {
  fc.assert(
    fc.property(
      fc.float32Array(),
      fc.bigInt64Array({ min: -(2n ** 53n) + 1n, max: 2n ** 53n - 1n }),
      (floats, ints) => {
        expect(TensorData.toTyped(TensorData.fromTyped(floats)).data).toEqual(floats);
        expect(TensorData.toTyped(TensorData.fromTyped(ints)).data).toEqual(ints);
      },
    ),
  );
});

test('without a dtype, whole numbers are int64 and fractions float32', () => {
  expect(TensorData.fromArray([1, 2]).dtype).toBe('int64');
  expect(TensorData.fromArray([1, 2.5]).dtype).toBe('float32');
  expect(TensorData.fromTyped(Uint8Array.of(1, 255))).toEqual({
    data: Int32Array.of(1, 255),
    dtype: 'int64',
    shape: [2],
  });
});

test('a sparse tensor is filled with the padding asked for', () => {
  const tensor = TensorData.parse({
    data: [7, 8, 9],
    dtype: 'int64',
    shape: [3, 4],
    sparse_crow_indices: [0, 1, 1, 3],
    sparse_col_indices: [2, 0, 3],
  });
  expect(TensorData.toNested(tensor, -1)).toEqual([
    [-1, -1, 7, -1],
    [-1, -1, -1, -1],
    [8, -1, -1, 9],
  ]);
});

const refused: [string, () => unknown, RegExp][] = [
  ['ragged', () => TensorData.fromArray([[1, 2], [3]]), /ragged array: expected 2 values at depth 1, got 1/],
  ['mixed depth', () => TensorData.fromArray([[1], 2]), /got a number/],
  ['fraction as int64', () => TensorData.fromArray([0.5], 'int64'), /0.5 is no int64 value/],
  ['shape', () => TensorData.fromTyped(Float32Array.of(1, 2), [3]), /\[3\] holds 3 values, got 2/],
  ['beyond 2^53', () => TensorData.fromTyped(BigInt64Array.of(2n ** 60n)), /beyond 2\^53/],
  ['not numbers', () => TensorData.fromArray(['a'] as unknown as NestedArray), /expected numbers/],
];

test.each(refused)('%s is refused with the reason', (_name, run, message) => {
  expect(run).toThrow(message);
});

test('a datum converts plain, nested and typed arrays, by the name of the input', () => {
  const datum = Datum.from({
    model_input: ModelInput.fromInts([1, 2]),
    loss_fn_inputs: {
      target_tokens: [
        [1, 2],
        [3, 4],
      ],
      weights: [1, 0],
      advantages: Int32Array.of(1, -1),
      logprobs: new Float64Array([-0.5, -1]),
    },
  });
  expect(datum.loss_fn_inputs).toMatchObject({
    target_tokens: { dtype: 'int64', shape: [2, 2] },
    weights: { dtype: 'float32', shape: [2] },
    advantages: { dtype: 'float32', shape: [2] },
    logprobs: { dtype: 'float32', data: Float32Array.of(-0.5, -1) },
  });
  const ragged = { target_tokens: [[1], [2, 3]] };
  expect(() => Datum.from({ model_input: ModelInput.empty(), loss_fn_inputs: ragged })).toThrow(
    /loss_fn_inputs.target_tokens: ragged/,
  );
});

test('cells that are padding are left out where that is smaller, as in the Python SDK', () => {
  const rows = [
    [7, -1, -1, -1, -1, 0],
    [-1, -1, -1, -1, -1, -1],
    [-1, 9, -1, -1, 3, -1],
  ];
  const dense = TensorData.fromArray(rows, 'int64');
  // TensorData.from_torch_sparse(torch.tensor(rows), -1)
  const sparse = { sparse_crow_indices: [0, 2, 2, 4], sparse_col_indices: [0, 5, 1, 4] };
  expect(TensorData.toSparse(dense, -1)).toEqual({ ...dense, data: [7, 0, 9, 3], ...sparse });
  expect(TensorData.toNested(TensorData.parse(TensorData.toSparse(dense, -1)), -1)).toEqual(rows);
  expect(TensorData.toSparse(dense)).toBe(dense);
  const flat = TensorData.fromArray([0, 0, 0, 0, 0, 0]);
  expect(TensorData.toSparse(flat)).toBe(flat);
});

test('provenance must tile the tokens', () => {
  const datum = Datum.from({
    model_input: ModelInput.fromInts([1, 2, 3]),
    loss_fn_inputs: { target_tokens: [2, 3, 4] },
  });
  const span = (type: 'prompt_tokens' | 'sampled_tokens', length: number) => ({
    type,
    sequence_id: 's:0',
    offset: 0,
    length,
  });
  const spans = [span('prompt_tokens', 1), span('sampled_tokens', 2)];
  expect(Datum.withProvenance(datum, spans, spans)).toEqual({
    ...datum,
    model_input_spans: spans,
    loss_fn_input_spans: spans,
  });
  expect(() => Datum.withProvenance(datum, spans.slice(1), spans)).toThrow('modelInput: the spans cover 2');
  expect(() => Datum.withProvenance(datum, spans, spans.slice(0, 1))).toThrow(
    'lossFnInputs: the spans cover 1',
  );
});

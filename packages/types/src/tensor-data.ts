import * as z from 'zod';
import * as convert from './tensor-convert.ts';
import { TensorDtype } from './tensor-dtype.ts';
import { problemWithLayout } from './tensor-layout.ts';

function problemWithValues(values: unknown): string | undefined {
  if (values instanceof Float32Array || values instanceof Int32Array) return undefined;
  if (!Array.isArray(values)) return 'must be a flat array of numbers, a Float32Array or an Int32Array';
  const index = values.findIndex((value) => typeof value !== 'number');
  return index < 0 ? undefined : `must be flat numbers, but [${index}] is ${describe(values[index])}`;
}

function describe(value: unknown): string {
  if (typeof value === 'bigint') return `${value}, which a double cannot hold`;
  return Array.isArray(value) ? 'an array (TensorData.fromArray flattens)' : String(value);
}

const Values = z.custom<number[] | Float32Array | Int32Array>().check((payload) => {
  const message = problemWithValues(payload.value);
  if (message) payload.issues.push({ code: 'custom', message, input: payload.value });
});

/** Flat values. Typed arrays are taken as they are; `z.encode` turns them into plain arrays. */
const TensorValues = z.codec(Values, Values, {
  decode: (values) => values,
  encode: (values) => Array.from(values),
});

const Indices = z.array(z.int().nonnegative());

const schema = z
  .strictObject({
    /** Row-major. Of a sparse tensor: the listed cells only. */
    data: TensorValues.meta({ type: 'array', items: { type: 'number' } }),
    dtype: TensorDtype,
    /** Absent: one dimension. */
    shape: z.array(z.int().nonnegative()).nullish(),
    /** Set for a sparse (CSR) tensor: where each row's cells start, rows + 1 numbers. Unlisted cells are padding. */
    sparse_crow_indices: Indices.nullish(),
    /** Column of each listed cell. */
    sparse_col_indices: Indices.nullish(),
  })
  .check((payload) => {
    const problem = problemWithLayout(payload.value);
    if (problem) payload.issues.push({ code: 'custom', input: payload.value, ...problem });
  })
  .meta({ id: 'TensorData', description: 'A tensor: flat values, element type, shape' });

export type TensorData = z.infer<typeof schema>;

/** A tensor: the schema, and conversions from and to arrays. */
export const TensorData = Object.assign(schema, {
  fromArray: convert.fromArray,
  fromTyped: convert.fromTyped,
  toTyped: convert.toTyped,
  toNested: convert.toNested,
  toSparse: convert.toSparse,
  shapeOf: convert.shapeOf,
});

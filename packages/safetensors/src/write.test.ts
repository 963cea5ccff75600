import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import fc from 'fast-check';
import { afterAll, expect, test } from 'vitest';
import {
  type Dtype,
  openSafetensors,
  type TensorData,
  type TensorToWrite,
  writeSafetensors,
} from './index.ts';

const FIXTURES = path.join(import.meta.dirname, '../fixtures');
const scratch = mkdtempSync(path.join(tmpdir(), 'safetensors-'));
afterAll(() => rmSync(scratch, { recursive: true }));

test.each(['mixed.safetensors', 'sharded/model-00001-of-00002.safetensors'])(
  'writes %s byte for byte as Python’s safetensors does',
  async (name) => {
    const original = path.join(FIXTURES, name);
    using file = openSafetensors(original);
    const tensors = file.tensors.map((info) => ({ ...info, data: () => file.read(info.name) })).reverse();
    const copy = path.join(scratch, 'copy.safetensors');
    const written = await writeSafetensors(copy, tensors, file.metadata);
    expect(readFileSync(copy).equals(readFileSync(original))).toBe(true);
    expect(written).toBe(readFileSync(original).byteLength);
  },
);

const arrays: [Dtype, (values: number[]) => TensorData][] = [
  ['F32', (values) => Float32Array.from(values)],
  ['F64', (values) => Float64Array.from(values)],
  ['BF16', (values) => Uint16Array.from(values)],
  ['F16', (values) => Uint16Array.from(values)],
  ['I64', (values) => BigInt64Array.from(values.map((value) => BigInt(Math.trunc(value))))],
  ['I32', (values) => Int32Array.from(values)],
  ['U8', (values) => Uint8Array.from(values)],
  ['I8', (values) => Int8Array.from(values)],
];

const tensor = fc
  .tuple(
    fc.string({ unit: 'binary' }).filter((name) => name !== '__metadata__'),
    fc.constantFrom(...arrays),
    fc.array(fc.nat(4), { maxLength: 3 }),
  )
  .chain(([name, [dtype, array], shape]) => {
    const count = shape.reduce((product, size) => product * size, 1);
    return fc
      .array(fc.double({ min: -1e6, max: 1e6, noNaN: true }), { minLength: count, maxLength: count })
      .map((values): TensorToWrite & { data: TensorData } => ({ name, dtype, shape, data: array(values) }));
  });

test('what is written is read back, whatever the names, dtypes and shapes', async () => {
  const file = path.join(scratch, 'round-trip.safetensors');
  const lists = fc.uniqueArray(tensor, { selector: ({ name }) => name, maxLength: 6 });
  const texts = fc.dictionary(
    fc.string().filter((key) => key !== '__proto__'),
    fc.string(),
  );
  await fc.assert(
    fc.asyncProperty(lists, texts, async (tensors, metadata) => {
      await writeSafetensors(file, tensors, metadata);
      using opened = openSafetensors(file);
      expect(opened.metadata).toEqual({ ...metadata });
      expect(opened.tensors).toHaveLength(tensors.length);
      for (const { name, dtype, shape, data } of tensors) {
        expect(opened.info(name)).toMatchObject({ dtype, shape });
        const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
        expect(opened.readSync(name)).toEqual(bytes);
      }
      expect(readFileSync(file).readBigUInt64LE(0) % 8n).toBe(0n);
    }),
    { numRuns: 60 },
  );
});

const zeros = (overrides: Partial<TensorToWrite>): TensorToWrite => ({
  name: 'w',
  dtype: 'F32',
  shape: [2],
  data: new Float32Array(2),
  ...overrides,
});

test.each<[string, TensorToWrite[], RegExp]>([
  ['too little data', [zeros({ data: new Float32Array(1) })], /"w".*8 bytes.*has 4/],
  ['the wrong array', [zeros({ data: new Int32Array(2) })], /"w".*Float32Array.*not Int32Array/],
  ['a repeated name', [zeros({}), zeros({})], /"w".*twice/],
  ['a fractional shape', [zeros({ shape: [1.3] })], /"w".*shape \[1.3\]/],
  ['a negative shape', [zeros({ shape: [-1, -2] })], /"w".*shape \[-1,-2\]/],
  ['the metadata’s name', [zeros({ name: '__metadata__' })], /reserved/],
])('refuses %s and leaves no file', async (_title, tensors, message) => {
  const file = path.join(scratch, 'refused.safetensors');
  await expect(writeSafetensors(file, tensors)).rejects.toThrow(message);
  expect(existsSync(file)).toBe(false);
});

test('asks for one tensor’s data at a time', async () => {
  const asked: string[] = [];
  const lazy = (name: string): TensorToWrite =>
    zeros({
      name,
      data: async () => {
        asked.push(name);
        return new Float32Array(2);
      },
    });
  await writeSafetensors(path.join(scratch, 'lazy.safetensors'), [lazy('b'), lazy('a')]);
  expect(asked).toEqual(['a', 'b']);
});

test('takes a tensor in pieces, and refuses too few or too many', async () => {
  const [whole, pieces] = [path.join(scratch, 'whole.safetensors'), path.join(scratch, 'pieces.safetensors')];
  const values = Float32Array.of(1, 2, 3, 4, 5);
  await writeSafetensors(whole, [zeros({ shape: [5], data: values })]);
  const given = (ends: number[]) =>
    zeros({
      shape: [5],
      data: function* () {
        let start = 0;
        for (const end of ends) {
          yield values.subarray(start, end);
          start = end;
        }
      },
    });
  await writeSafetensors(pieces, [given([2, 3, 5])]);
  expect(readFileSync(pieces).equals(readFileSync(whole))).toBe(true);
  await expect(writeSafetensors(pieces, [given([2, 3])])).rejects.toThrow(/take 20 bytes.*has 12/);
});

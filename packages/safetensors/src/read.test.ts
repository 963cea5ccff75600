import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { openSafetensors, SafetensorsError } from './index.ts';

// The files were written by Python's safetensors: see fixtures/make_fixtures.py.
const FIXTURES = path.join(import.meta.dirname, '../fixtures');
const ENGINE_FIXTURES = path.join(import.meta.dirname, '../../engine/fixtures');
const expected = JSON.parse(readFileSync(path.join(FIXTURES, 'mixed.json'), 'utf8')) as Record<
  string,
  number[]
>;
const scratch = mkdtempSync(path.join(tmpdir(), 'safetensors-'));
afterAll(() => rmSync(scratch, { recursive: true }));

function write(name: string, ...parts: (Uint8Array | string)[]): string {
  const file = path.join(scratch, name);
  writeFileSync(file, Buffer.concat(parts.map((part) => Buffer.from(part as Uint8Array))));
  return file;
}

function length(value: number | bigint): Uint8Array {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(value), true);
  return bytes;
}

function fileWith(header: string | object, data = new Uint8Array(0)): string {
  const json = typeof header === 'string' ? header : JSON.stringify(header);
  return write('case.safetensors', length(Buffer.byteLength(json)), json, data);
}

function errorOf(action: () => unknown): SafetensorsError {
  try {
    action();
  } catch (error) {
    if (error instanceof SafetensorsError) return error;
    throw error;
  }
  throw new Error('nothing was thrown');
}

test('lists the tensors of a file by name, with dtype, shape and size', () => {
  using file = openSafetensors(path.join(FIXTURES, 'mixed.safetensors'));
  expect(file.metadata).toEqual({ format: 'pt' });
  expect(file.tensors.map(({ name, dtype, shape, byteLength }) => [name, dtype, shape, byteLength])).toEqual([
    ['10', 'F32', [1, 1], 4],
    ['a.float32', 'F32', [3, 5], 60],
    ['b.float32', 'F32', [], 4],
    ['brain', 'BF16', [3, 5], 30],
    ['bytes', 'U8', [3], 3],
    ['double', 'F64', [3, 5], 120],
    ['empty', 'F32', [0, 4], 0],
    ['flags', 'BOOL', [2], 2],
    ['größe "q"', 'I8', [2], 2],
    ['half', 'F16', [3, 5], 30],
    ['int', 'I32', [2, 1], 8],
    ['long', 'I64', [3], 24],
  ]);
});

test.each([
  ['a.float32', 'float32'],
  ['double', 'float32'],
  ['half', 'half'],
  ['brain', 'brain'],
])('widens %s to float32, blocking or not', async (name, key) => {
  using file = openSafetensors(path.join(FIXTURES, 'mixed.safetensors'));
  expect([...file.readFloat32Sync(name)]).toEqual(expected[key]);
  expect([...(await file.readFloat32(name))]).toEqual(expected[key]);
});

test('gives stored bytes that typed arrays can view', async () => {
  using file = openSafetensors(path.join(FIXTURES, 'mixed.safetensors'));
  expect([...new BigInt64Array(file.readSync('long').buffer)]).toEqual([-1n, 2n ** 62n, -(2n ** 63n)]);
  expect([...new Int32Array((await file.read('int')).buffer)]).toEqual([-1, 2 ** 31 - 1]);
  expect([...file.readSync('bytes')]).toEqual([1, 2, 3]);
  expect(file.readSync('empty')).toHaveLength(0);
});

test('reads the shards that a folder’s index names', () => {
  using folder = openSafetensors(path.join(FIXTURES, 'sharded'));
  expect(folder.tensors.map(({ name }) => name)).toEqual(['w.0', 'w.1', 'w.2']);
  expect(folder.files.map((file) => path.basename(file))).toEqual([
    'model-00001-of-00002.safetensors',
    'model-00002-of-00002.safetensors',
  ]);
  expect([...folder.readFloat32Sync('w.0')]).toEqual(expected.float32);
  expect([...folder.readFloat32Sync('w.1')]).toEqual(expected.brain);
  expect([...folder.readFloat32Sync('w.2')]).toEqual(expected.half);
});

test('opens a checkpoint folder as transformers saves it', () => {
  using folder = openSafetensors(path.join(ENGINE_FIXTURES, 'arch/llama3/model'));
  const names = folder.tensors.map(({ name }) => name);
  expect(names).toContain('model.embed_tokens.weight');
  for (const name of names) expect(folder.readFloat32Sync(name).every(Number.isFinite)).toBe(true);
});

test('reads values at any alignment', () => {
  const header = {
    odd: { dtype: 'U8', shape: [1], data_offsets: [0, 1] },
    x: { dtype: 'F32', shape: [2], data_offsets: [1, 9] },
  };
  const data = new Uint8Array(9);
  new DataView(data.buffer).setFloat32(1, 1.5, true);
  new DataView(data.buffer).setFloat32(5, -8, true);
  using file = openSafetensors(fileWith(header, data));
  expect([...file.readFloat32Sync('x')]).toEqual([1.5, -8]);
});

test('reads tensors larger than one chunk', async () => {
  const count = (9 << 20) / 2;
  const bits = Uint16Array.from({ length: count }, (_, i) => i & 0x7f7f);
  const header = { big: { dtype: 'BF16', shape: [count], data_offsets: [0, 2 * count] } };
  using file = openSafetensors(fileWith(header, new Uint8Array(bits.buffer)));
  const values = await file.readFloat32('big');
  expect(
    Buffer.compare(new Uint8Array(values.buffer), new Uint8Array(file.readFloat32Sync('big').buffer)),
  ).toBe(0);
  const words = new Uint32Array(values.buffer);
  expect(words.findIndex((word, i) => word !== bits[i]! << 16)).toBe(-1);
  expect(Buffer.compare(file.readSync('big'), await file.read('big'))).toBe(0);
  const memory = new Uint8Array(2 * count).fill(255);
  file.readIntoSync('big', 2, memory.subarray(4, 2 * count));
  expect(Buffer.compare(memory.subarray(4), file.readSync('big').subarray(2, 2 * count - 2))).toBe(0);
  expect([...memory.subarray(0, 4)]).toEqual([255, 255, 255, 255]);
  expect(() => file.readIntoSync('big', 1, memory)).toThrow(RangeError);
});

test('gives a tensor in pieces of whole rows, of any width', () => {
  const [rows, width] = [2 ** 18 + 5, 19];
  const bits = Uint16Array.from({ length: rows * width }, (_, i) => i & 0x7f7f);
  const header = { big: { dtype: 'BF16', shape: [rows, width], data_offsets: [0, bits.byteLength] } };
  using file = openSafetensors(fileWith(header, new Uint8Array(bits.buffer)));
  const sizes: number[] = [];
  const found = new Float32Array(bits.length);
  for (const piece of file.float32RowsSync('big', width)) {
    found.set(
      piece,
      sizes.reduce((sum, size) => sum + size, 0),
    );
    sizes.push(piece.length);
  }
  expect(sizes.length).toBeGreaterThan(1);
  expect(sizes.every((size) => size % width === 0)).toBe(true);
  expect(
    Buffer.compare(new Uint8Array(found.buffer), new Uint8Array(file.readFloat32Sync('big').buffer)),
  ).toBe(0);
  using mixed = openSafetensors(path.join(FIXTURES, 'mixed.safetensors'));
  for (const name of ['a.float32', 'double', 'half', 'brain', 'empty'])
    expect([...mixed.float32RowsSync(name, 5)].flatMap((piece) => [...piece])).toEqual([
      ...mixed.readFloat32Sync(name),
    ]);
});

const entry = (begin: number, end: number, extra: object = {}) => ({
  dtype: 'U8',
  shape: [end - begin],
  data_offsets: [begin, end],
  ...extra,
});

test.each<[string, string, () => string, string | undefined]>([
  ['a file shorter than the length field', 'truncated', () => write('case.safetensors', 'abc'), undefined],
  [
    'a header that runs past the end',
    'truncated',
    () => write('case.safetensors', length(500), '{}'),
    undefined,
  ],
  [
    'a huge header length',
    'header_too_large',
    () => write('case.safetensors', length(2n ** 63n), '{}'),
    undefined,
  ],
  ['a header that is not JSON', 'header_not_json', () => fileWith('{"a": '), undefined],
  [
    'a header that is not UTF-8',
    'header_not_json',
    () => write('case.safetensors', length(1), new Uint8Array([0xff])),
    undefined,
  ],
  ['a header that is a list', 'header_invalid', () => fileWith('[]'), undefined],
  ['metadata that are no strings', 'header_invalid', () => fileWith({ __metadata__: { a: 1 } }), undefined],
  [
    'a tensor without shape',
    'header_invalid',
    () => fileWith({ w: { dtype: 'U8', data_offsets: [0, 0] } }),
    'w',
  ],
  ['a negative offset', 'header_invalid', () => fileWith({ w: entry(-1, 0) }), 'w'],
  [
    'a name given twice',
    'duplicate_tensor',
    () =>
      fileWith(
        `{"w":${JSON.stringify(entry(0, 1))} , "\\u0077" :${JSON.stringify(entry(0, 1))}}`,
        new Uint8Array(1),
      ),
    'w',
  ],
  [
    'an unknown dtype',
    'unknown_dtype',
    () => fileWith({ w: entry(0, 1, { dtype: 'F31' }) }, new Uint8Array(1)),
    'w',
  ],
  [
    'a shape that does not match',
    'size_mismatch',
    () => fileWith({ w: entry(0, 4, { dtype: 'F32', shape: [2] }) }, new Uint8Array(4)),
    'w',
  ],
  [
    'a shape beyond 2^53',
    'size_mismatch',
    () => fileWith({ w: entry(0, 0, { shape: [2 ** 40, 2 ** 40] }) }),
    'w',
  ],
  [
    'offsets that run backwards',
    'offset_invalid',
    () => fileWith({ w: entry(0, 1, { data_offsets: [1, 0] }) }, new Uint8Array(1)),
    'w',
  ],
  [
    'overlapping tensors',
    'offset_invalid',
    () => fileWith({ v: entry(0, 2), w: entry(1, 3) }, new Uint8Array(3)),
    'w',
  ],
  [
    'a hole between tensors',
    'offset_invalid',
    () => fileWith({ v: entry(0, 1), w: entry(2, 3) }, new Uint8Array(3)),
    'w',
  ],
  [
    'data after the last tensor',
    'offset_invalid',
    () => fileWith({ w: entry(0, 1) }, new Uint8Array(2)),
    undefined,
  ],
  [
    'a file cut off in its data',
    'truncated',
    () => fileWith({ v: entry(0, 1), w: entry(1, 9) }, new Uint8Array(5)),
    'w',
  ],
  ['a missing file', 'file_not_found', () => path.join(scratch, 'absent.safetensors'), undefined],
  ['a folder without weights', 'file_not_found', () => path.join(scratch), undefined],
])('refuses %s', (_title, code, make, tensor) => {
  const file = make();
  const error = errorOf(() => openSafetensors(file));
  expect(error.code).toBe(code);
  expect(error.tensor).toBe(tensor);
  expect(error.message).toContain(file);
  if (tensor) expect(error.message).toContain(`tensor "${tensor}"`);
});

test('keys inside entries and metadata do not count as tensor names', () => {
  const header = { __metadata__: { w: 'x', dtype: '{"w":1}' }, w: entry(0, 1), dtype: entry(1, 2) };
  using file = openSafetensors(fileWith(header, new Uint8Array(2)));
  expect(file.tensors.map(({ name }) => name)).toEqual(['dtype', 'w']);
});

test.each([
  ['{"weight_map": {"w": "../x.safetensors"}}', 'index_invalid', /plain file name/],
  ['{"weight_map": {"w": "gone.safetensors"}}', 'file_not_found', /gone\.safetensors/],
  ['{"weight_map": {"other": "shard.safetensors"}}', 'index_invalid', /"other".*shard\.safetensors/],
  ['{"weight_map": ["w"]}', 'index_invalid', /weight_map/],
  ['{', 'index_invalid', /not JSON/],
])('refuses the index %s', (index, code, message) => {
  const folder = mkdtempSync(path.join(scratch, 'folder-'));
  const json = JSON.stringify({ w: entry(0, 1) });
  writeFileSync(
    path.join(folder, 'shard.safetensors'),
    Buffer.concat([length(json.length), Buffer.from(`${json}0`)]),
  );
  writeFileSync(path.join(folder, 'model.safetensors.index.json'), index);
  const error = errorOf(() => openSafetensors(folder));
  expect(error.code).toBe(code);
  expect(error.message).toMatch(message);
});

test('names what was asked for when it is not there, not a float, or closed', () => {
  const file = openSafetensors(path.join(FIXTURES, 'mixed.safetensors'));
  expect(errorOf(() => file.readSync('nope'))).toMatchObject({ code: 'tensor_not_found', tensor: 'nope' });
  expect(errorOf(() => file.readFloat32Sync('int'))).toMatchObject({
    code: 'dtype_unsupported',
    tensor: 'int',
  });
  expect(file.has('int')).toBe(true);
  file.close();
  file.close();
  expect(() => file.readSync('int')).toThrow(/after close/);
});

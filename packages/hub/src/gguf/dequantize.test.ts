import { readFileSync } from 'node:fs';
import path from 'node:path';
import { expect, test } from 'vitest';
import { dequantize, encodedByteLength, type GgufEncoding } from './dequantize.ts';

// Random blocks and their values by Python's gguf package: see fixtures/make_dequantize.py.
const fixture = JSON.parse(
  readFileSync(path.join(import.meta.dirname, '../../fixtures/dequantize.json'), 'utf8'),
) as Record<GgufEncoding, { blocks: string; values: string }>;

test.each(Object.entries(fixture))('%s equals the reference in every bit', (name, { blocks, values }) => {
  const encoding = name as GgufEncoding;
  const expected = new Float32Array(new Uint8Array(Buffer.from(values, 'base64')).buffer);
  const bytes = new Uint8Array(Buffer.from(blocks, 'base64'));
  expect(encodedByteLength(encoding, expected.length)).toBe(bytes.length);
  expect(dequantize(encoding, bytes)).toEqual(expected);
});

test('unquantised tensors', () => {
  expect([...dequantize('F32', new Uint8Array(Float32Array.of(1.5, -2).buffer))]).toEqual([1.5, -2]);
  expect([...dequantize('F16', new Uint8Array(Uint16Array.of(0x3c00, 0xc000).buffer))]).toEqual([1, -2]);
  expect([...dequantize('BF16', new Uint8Array(Uint16Array.of(0x3f80, 0xc000).buffer))]).toEqual([1, -2]);
});

test('a count that does not fill blocks has no size', () => {
  expect(encodedByteLength('Q4_K', 300)).toBeUndefined();
  expect(encodedByteLength('F16', 3)).toBe(6);
});

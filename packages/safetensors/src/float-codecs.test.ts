import { readFileSync } from 'node:fs';
import path from 'node:path';
import { expect, test } from 'vitest';
import { bfloat16ToFloat32, float16ToFloat32, float32ToBfloat16, float32ToFloat16 } from './index.ts';

// float32 bit patterns and what numpy (float16) and ml_dtypes (bfloat16) round them to: see fixtures/make_fixtures.py.
const rounding = JSON.parse(
  readFileSync(path.join(import.meta.dirname, '../fixtures/rounding.json'), 'utf8'),
) as Record<'float32' | 'float16' | 'bfloat16', number[]>;
const values = new Float32Array(Uint32Array.from(rounding.float32).buffer);

test('float32 rounds to bfloat16 as ml_dtypes rounds', () => {
  expect([...float32ToBfloat16(values)]).toEqual(rounding.bfloat16);
});

test('float32 rounds to float16 as numpy rounds', () => {
  expect([...float32ToFloat16(values)]).toEqual(rounding.float16);
});

test.each([
  ['bfloat16', bfloat16ToFloat32, float32ToBfloat16],
  ['float16', float16ToFloat32, float32ToFloat16],
] as const)('each of the 65,536 %s values survives widening and narrowing', (_name, widen, narrow) => {
  const bits = Uint16Array.from({ length: 0x10000 }, (_, i) => i);
  const widened = widen(bits);
  const back = narrow(widened);
  const changed = bits.filter((value, i) => back[i] !== value && !Number.isNaN(widened[i]));
  expect([...changed]).toEqual([]);
  const lost = bits.filter(
    (_, i) => Number.isNaN(widened[i]) && !Number.isNaN(widen(back.subarray(i, i + 1))[0]),
  );
  expect([...lost]).toEqual([]);
});

test('known float16 values', () => {
  const bits = Uint16Array.of(0x3c00, 0x0001, 0x0400, 0x7bff, 0x7c00, 0xc248);
  expect([...float16ToFloat32(bits)]).toEqual([1, 2 ** -24, 2 ** -14, 65504, Infinity, -3.140625]);
});

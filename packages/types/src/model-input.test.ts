import fc from 'fast-check';
import { expect, test } from 'vitest';
import { ModelInput } from './index.ts';

const image = { type: 'image' as const, data: Uint8Array.of(1), format: 'png' as const };

test('tokens go in and come out in order', () => {
  fc.assert(
    fc.property(fc.array(fc.array(fc.nat())), (texts) => {
      const input = texts.reduce(
        (soFar, tokens) => ModelInput.append(soFar, { type: 'encoded_text', tokens }),
        ModelInput.empty(),
      );
      expect(ModelInput.toInts(input)).toEqual(texts.flat());
      expect(ModelInput.length(input)).toBe(texts.flat().length);
      expect(ModelInput.parse(input)).toEqual(input);
    }),
  );
});

test('append and appendInt leave the given input as it is', () => {
  const input = ModelInput.fromInts([1]);
  expect(ModelInput.toInts(ModelInput.appendInt(input, 2))).toEqual([1, 2]);
  expect(ModelInput.length(ModelInput.append(input, { ...image, expected_tokens: 4 }))).toBe(5);
  expect(input).toEqual(ModelInput.fromInts([1]));
});

test('images have no token ids, and no length without expected_tokens', () => {
  const input = ModelInput.append(ModelInput.empty(), image);
  expect(() => ModelInput.toInts(input)).toThrow(/chunk 0 is image/);
  expect(() => ModelInput.length(input)).toThrow(/set expected_tokens/);
});

import { expect, test } from 'vitest';
import { alignTokens } from './align-tokens.ts';

const parts = (texts: string[], text: string): string[] =>
  alignTokens(
    texts.map((own) => ({ text: own, logprob: -1 })),
    text,
  ).map((part) => part.text);

test('tokens keep their own texts', () => {
  expect(parts(['Once', ' upon', ' a'], 'Once upon a')).toEqual(['Once', ' upon', ' a']);
});

test('a stop text inside the last token cuts it', () => {
  expect(parts(['A', ' Pose'], 'A Pos')).toEqual(['A', ' Pos']);
  expect(parts(['A', ' end', '.'], 'A')).toEqual(['A', '', '']);
});

test('a character of several tokens goes to the first of them', () => {
  expect(parts(['Hi ', '\uFFFD', '\uFFFD', '\uFFFD', '!'], 'Hi 🦊!')).toEqual(['Hi ', '🦊', '', '', '!']);
  expect(parts(['\uFFFD', '\uFFFD'], '🦊')).toEqual(['🦊', '']);
});

import { readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, test } from 'vitest';
import { IncrementalDecoder } from '../src/index.ts';
import { loadTokenizer } from '../src/node.ts';
import { smollm2Folder } from './smollm2.ts';

const FIXTURES = path.join(import.meta.dirname, '../fixtures');
// Odd texts and random ids, through Rust's tokenizers: see fixtures/make_random_cases.py.
const cases = JSON.parse(readFileSync(path.join(FIXTURES, 'random_cases.json'), 'utf8')) as Record<
  string,
  {
    texts: { text: string; ids: number[] }[];
    ids: { ids: number[]; prefixes: string[]; skipped: string }[];
  }
>;

describe.each(Object.entries(cases))('%s', async (family, { texts, ids: lists }) => {
  const folder = family === 'smollm2' ? await smollm2Folder() : path.join(FIXTURES, family);
  const tokenizer = await loadTokenizer(folder);

  test('encodes odd texts as Rust does', () => {
    for (const { text, ids } of texts) expect([text, tokenizer.encode(text)]).toEqual([text, ids]);
  });

  test('decodes random ids as Rust does', () => {
    for (const { ids, prefixes, skipped } of lists) {
      expect(tokenizer.decode(ids)).toBe(prefixes.at(-1));
      expect(tokenizer.decode(ids, { skipSpecialTokens: true })).toBe(skipped);
    }
  });

  test('decodes id by id: at each step what decoding all ids so far gives, and never takes text back', () => {
    for (const { ids, prefixes } of lists) {
      const decoder = new IncrementalDecoder(tokenizer);
      let text = '';
      for (const [i, id] of ids.entries()) {
        text += decoder.push(id);
        expect(decoder.text).toBe(text);
        expect(decoder.text + decoder.pending).toBe(prefixes[i]);
      }
    }
  });
});

test('a character that spans tokens comes when it is complete', async () => {
  const tokenizer = await loadTokenizer(path.join(FIXTURES, 'qwen3'));
  const ids = tokenizer.encode('a🙂b', { addSpecialTokens: false });
  const decoder = new IncrementalDecoder(tokenizer);
  expect(ids.map((id) => decoder.push(id))).toEqual(['a', '', '', '', '🙂', 'b']);
});

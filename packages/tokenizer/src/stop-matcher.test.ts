import { readFileSync } from 'node:fs';
import path from 'node:path';
import { expect, test } from 'vitest';
import { StopMatcher } from './index.ts';
import { loadTokenizer } from './node.ts';

const FIXTURES = path.join(import.meta.dirname, '../fixtures');
const qwen = await loadTokenizer(path.join(FIXTURES, 'qwen3'));
const gemma = await loadTokenizer(path.join(FIXTURES, 'gemma3'));

interface Row {
  stream: number[];
  stop: (string | number)[];
  max_tokens: number;
  tokens: number[];
  stop_reason: 'stop' | 'length';
}
// Made by decoding every prefix with Rust's tokenizers and searching it.
const table = JSON.parse(
  readFileSync(path.join(import.meta.dirname, '../../engine/fixtures/tables/stops.json'), 'utf8'),
) as { rows: Row[] };

test.each(table.rows.map((row, index) => ({ index, ...row })))(
  'row $index: stop $stop within $max_tokens',
  (row) => {
    const matcher = new StopMatcher({
      stopTokenIds: row.stop.filter((stop) => typeof stop === 'number'),
      stopStrings: row.stop.filter((stop) => typeof stop === 'string'),
      tokenizer: qwen,
    });
    const last = row.stream.slice(0, row.max_tokens).findIndex((id) => matcher.push(id));
    expect(last === -1 ? 'length' : 'stop').toBe(row.stop_reason);
    expect(row.stream.slice(0, last === -1 ? row.max_tokens : last + 1)).toEqual(row.tokens);
  },
);

test.each([
  ['qwen3', qwen],
  ['gemma3', gemma],
])('%s: agrees with a search of the whole decoded text at every step', (_family, tokenizer) => {
  let state = 12345;
  const random = (below: number) => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
  let stopped = 0;
  for (let trial = 0; trial < 300; trial++) {
    const ids = Array.from({ length: 40 }, () => random(tokenizer.vocabSize + 3));
    const text = tokenizer.decode(ids);
    const start = random(text.length);
    const stopStrings = [trial % 3 ? text.slice(start, start + 1 + random(5)) : '\uFFFD\uFFFD', 'never'];
    const matcher = new StopMatcher({ stopStrings, tokenizer });
    const expected = ids.findIndex((_, i) =>
      stopStrings.some((stop) => tokenizer.decode(ids.slice(0, i + 1)).includes(stop)),
    );
    expect(ids.findIndex((id) => matcher.push(id))).toBe(expected);
    if (expected >= 0) stopped++;
  }
  expect(stopped).toBeGreaterThan(200);
});

test('a stop string may span tokens, and special tokens are text', () => {
  const ids = qwen.encode('one two<|im_end|>', { addSpecialTokens: false });
  const pushAll = (stop: string) => {
    const matcher = new StopMatcher({ stopStrings: [stop], tokenizer: qwen });
    return ids.findIndex((id) => matcher.push(id));
  };
  expect(pushAll('e tw')).toBeGreaterThan(0);
  expect(pushAll('two<|im')).toBe(ids.length - 1);
  expect(pushAll('three')).toBe(-1);
});

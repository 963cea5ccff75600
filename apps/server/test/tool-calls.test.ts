import fc from 'fast-check';
import { expect, test } from 'vitest';
import { ToolCallReader } from '../src/services/openai-tool-calls.ts';

/** All that is read from an answer that comes in these pieces. */
function read(pieces: string[]): { text: string; calls: [name: string, given: string][] } {
  const reader = new ToolCallReader();
  const said = [...pieces.map((piece) => reader.push(piece)), reader.finish()];
  return {
    text: said.map(({ text }) => text).join(''),
    calls: said.flatMap(({ calls }) => calls.map((call): [string, string] => [call.name, call.arguments])),
  };
}

test('text stays text, and calls take the blanks before them with them', () => {
  expect(read([' plain <b>text</b>\n'])).toEqual({ text: ' plain <b>text</b>\n', calls: [] });
  const answer =
    'First.\n\n<tool_call>\n{"name": "a", "arguments": {"x": [1, "</b>"]}}\n</tool_call>\n\nThen.\n';
  expect(read([answer])).toEqual({ text: 'First.\n\nThen.', calls: [['a', '{"x":[1,"</b>"]}']] });
});

test('a call that is no JSON object with a name is text', () => {
  for (const body of ['', '{', '[]', '{"arguments": {}}', '{"name": "a", "arguments": "x"}']) {
    const answer = `<tool_call>${body}</tool_call>`;
    expect(read([answer])).toEqual({ text: answer, calls: [] });
  }
});

test('however an answer is cut into pieces, the same is read', () => {
  const parts = fc.constantFrom(
    '<tool_call>',
    '</tool_call>',
    '{"name":"a"}',
    '{"name":',
    ' ',
    '\n',
    '<',
    'text',
  );
  const cuts = fc.array(fc.nat(60));
  fc.assert(
    fc.property(fc.array(parts, { maxLength: 12 }), cuts, (chosen, places) => {
      const answer = chosen.join('');
      const at = [0, ...places.filter((place) => place < answer.length), answer.length].sort((a, b) => a - b);
      const pieces = at.slice(1).map((end, index) => answer.slice(at[index], end));
      expect(read(pieces)).toEqual(read([answer]));
    }),
    { numRuns: 2000 },
  );
});

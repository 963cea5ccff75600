import { readFileSync } from 'node:fs';
import path from 'node:path';
import { expect, test } from 'vitest';
import { type ChatMessage, IncrementalDecoder } from '../src/index.ts';
import { loadTokenizer } from '../src/node.ts';
import { smollm2Folder } from './smollm2.ts';

// Token ids and chat renderings of the real tokenizer by transformers.
const fixture = JSON.parse(
  readFileSync(path.join(import.meta.dirname, '../../engine/fixtures/smollm2_text.json'), 'utf8'),
) as {
  tokens: { text: string; ids: number[] }[];
  chat: { messages: ChatMessage[]; text: string; ids: number[] }[];
  greedy: { prompt: string; prompt_ids: number[]; ids: number[]; text: string }[];
};

const tokenizer = await loadTokenizer(await smollm2Folder());

test.each(fixture.tokens)('encodes $text', ({ text, ids }) => {
  expect(tokenizer.encode(text)).toEqual(ids);
  expect(tokenizer.decode(ids)).toBe(text);
});

test.each(fixture.chat)('renders and encodes the chat $messages', ({ messages, text, ids }) => {
  const rendered = tokenizer.applyChatTemplate(messages, { addGenerationPrompt: true });
  expect(rendered).toBe(text);
  expect(tokenizer.encode(rendered, { addSpecialTokens: false })).toEqual(ids);
});

test.each(fixture.greedy)(
  'decodes the answer to “$prompt” token by token',
  ({ prompt, prompt_ids, ids, text }) => {
    const rendered = tokenizer.applyChatTemplate([{ role: 'user', content: prompt }], {
      addGenerationPrompt: true,
    });
    expect(tokenizer.encode(rendered, { addSpecialTokens: false })).toEqual(prompt_ids);
    const decoder = new IncrementalDecoder(tokenizer);
    expect(ids.map((id) => decoder.push(id)).join('')).toBe(text);
  },
);

test('names the special tokens', () => {
  expect(tokenizer.bosTokenId).toBe(1);
  expect(tokenizer.eosTokenId).toBe(2);
  expect(tokenizer.vocabSize).toBe(49152);
  expect(tokenizer.decode([1, 504, 2], { skipSpecialTokens: true })).toBe('The');
});

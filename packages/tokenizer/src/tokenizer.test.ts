import { existsSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, test } from 'vitest';
import type { ChatMessage } from './index.ts';
import { loadTokenizer } from './node.ts';

// Encodings by Rust's tokenizers and chats by transformers, for a small tokenizer in the shape of each family.
const FIXTURES = path.join(import.meta.dirname, '../fixtures');
const FAMILIES = readdirSync(FIXTURES, { withFileTypes: true })
  .filter((entry) => existsSync(path.join(FIXTURES, entry.name, 'tokenizer_cases.json')))
  .map((entry) => entry.name);

interface Cases {
  rows: {
    text: string;
    ids: number[];
    ids_with_special: number[];
    decoded: string;
    decoded_skip_special: string;
  }[];
  chat: { messages: ChatMessage[]; text: string; ids: number[] };
}

describe.each(FAMILIES)('%s', async (family) => {
  const folder = path.join(FIXTURES, family);
  const tokenizer = await loadTokenizer(folder);
  const { rows, chat } = JSON.parse(readFileSync(path.join(folder, 'tokenizer_cases.json'), 'utf8')) as Cases;

  test.each(rows)(
    'encodes and decodes $text as Rust does',
    ({ text, ids, ids_with_special, decoded, decoded_skip_special }) => {
      expect(tokenizer.encode(text, { addSpecialTokens: false })).toEqual(ids);
      expect(tokenizer.encode(text)).toEqual(ids_with_special);
      expect(tokenizer.decode(ids)).toBe(decoded);
      expect(tokenizer.decode(ids, { skipSpecialTokens: true })).toBe(decoded_skip_special);
    },
  );

  test('renders a chat as transformers does', () => {
    const text = tokenizer.applyChatTemplate(chat.messages, { addGenerationPrompt: true });
    expect(text).toBe(chat.text);
    expect(tokenizer.encode(text, { addSpecialTokens: false })).toEqual(chat.ids);
  });
});

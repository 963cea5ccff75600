import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { TokenizerError } from './index.ts';
import { loadTokenizer } from './node.ts';

const FIXTURES = path.join(import.meta.dirname, '../fixtures');
const hello = [{ role: 'user', content: 'Hi' }];

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'tokenizer-'));
  cpSync(path.join(FIXTURES, 'llama3'), folder, { recursive: true });
});
afterEach(() => rmSync(folder, { recursive: true }));

const write = (file: string, content: string | object) =>
  writeFileSync(path.join(folder, file), typeof content === 'string' ? content : JSON.stringify(content));

test('a template in a file of its own wins over the configuration’s', async () => {
  expect((await loadTokenizer(folder)).applyChatTemplate(hello)).toContain('<|start_header_id|>user');
  write('chat_template.json', { chat_template: 'json {{ bos_token }}' });
  expect((await loadTokenizer(folder)).applyChatTemplate(hello)).toBe('json <|begin_of_text|>');
  write('chat_template.jinja', 'jinja {{ eos_token }}');
  mkdirSync(path.join(folder, 'additional_chat_templates'));
  write('additional_chat_templates/tool_use.jinja', 'with tools');
  const tokenizer = await loadTokenizer(folder);
  expect(tokenizer.applyChatTemplate(hello)).toBe('jinja <|eot_id|>');
  expect(tokenizer.applyChatTemplate(hello, { tools: [{}] })).toBe('with tools');
  expect(tokenizer.chatTemplates.names).toEqual(['default', 'tool_use']);
});

test('named tokens come from special_tokens_map.json where the configuration has none', async () => {
  rmSync(path.join(folder, 'tokenizer_config.json'));
  expect((await loadTokenizer(folder)).eosTokenId).toBeUndefined();
  write('special_tokens_map.json', { eos_token: { content: '<|eot_id|>' }, bos_token: '<|begin_of_text|>' });
  const tokenizer = await loadTokenizer(folder);
  expect(tokenizer.eosTokenId).toBe(tokenizer.tokenToId('<|eot_id|>'));
  expect(tokenizer.bosTokenId).toBe(tokenizer.encode('x')[0]);
});

test('added tokens that only the configuration lists are tokens', async () => {
  const config = JSON.parse(readFileSync(path.join(folder, 'tokenizer_config.json'), 'utf8'));
  config.added_tokens_decoder['365'] = { content: '<|extra|>', special: true };
  write('tokenizer_config.json', config);
  const tokenizer = await loadTokenizer(folder);
  expect(tokenizer.encode('<|extra|>', { addSpecialTokens: false })).toEqual([365]);
  expect(tokenizer.decode([365])).toBe('<|extra|>');
  expect(tokenizer.decode([365], { skipSpecialTokens: true })).toBe('');
});

test.each<[string, () => void, RegExp]>([
  ['no tokenizer.json', () => rmSync(path.join(folder, 'tokenizer.json')), /no tokenizer\.json/],
  ['a tokenizer.json cut off', () => write('tokenizer.json', '{"model": '), /tokenizer\.json is not JSON/],
  [
    'a tokenizer.json without model',
    () => write('tokenizer.json', { decoder: { type: 'ByteLevel' } }),
    /tokenizer\.json: .*\n.*model/,
  ],
  [
    'an unknown decoder',
    () => write('tokenizer.json', { model: {}, decoder: { type: 'CTC' } }),
    /decoder \{"type":"CTC"\} is not supported/,
  ],
  [
    'a wrong configuration',
    () => write('tokenizer_config.json', { chat_template: 3 }),
    /tokenizer_config\.json: .*\n.*chat_template/,
  ],
  ['a wrong template file', () => write('chat_template.json', {}), /chat_template\.json/],
])('says what is wrong with %s', async (_title, spoil, message) => {
  spoil();
  const error = await loadTokenizer(folder).catch((reason: unknown) => reason);
  expect(error).toBeInstanceOf(TokenizerError);
  expect(String(error)).toMatch(message);
  expect(String(error)).toContain(folder);
});

import { readFileSync } from 'node:fs';
import path from 'node:path';
import { expect, test } from 'vitest';
import { ChatTemplates } from './chat-template.ts';
import { type ChatMessage, ChatTemplateError } from './index.ts';

// Rendered by transformers: see fixtures/make_chat_cases.py. A text of null: it refused.
const fixture = JSON.parse(
  readFileSync(path.join(import.meta.dirname, '../fixtures/chat_cases.json'), 'utf8'),
) as {
  now: string;
  templates: Record<string, string>;
  chats: Record<string, ChatMessage[]>;
  cases: {
    template: string;
    chat: string;
    options: {
      add_generation_prompt?: boolean;
      tools?: Record<string, unknown>[];
      enable_thinking?: boolean;
    };
    text: string | null;
  }[];
};
const templates = new ChatTemplates(new Map(Object.entries(fixture.templates)));
const tokens = { bos_token: '<s>', eos_token: '</s>' };

test.each(fixture.cases)(
  'template $template, chat $chat, options $options',
  ({ template, chat, options, text }) => {
    const { add_generation_prompt: addGenerationPrompt, tools, ...variables } = options;
    const given = { template, addGenerationPrompt, tools, variables, now: new Date(fixture.now) };
    const render = () => templates.render(fixture.chats[chat]!, given, tokens);
    if (text === null) expect(render).toThrow(ChatTemplateError);
    else expect(render()).toBe(text);
  },
);

const one = (source: string) => new ChatTemplates(new Map([['default', source]]));
const hello: ChatMessage[] = [{ role: 'user', content: 'Hello' }];

test('the template’s own words are in the error when it refuses', () => {
  expect(() => one("{{ raise_exception('no system turn') }}").render(hello, {}, {})).toThrow(
    /refuses these messages: no system turn/,
  );
});

test('errors name the template that is missing or does not parse', () => {
  expect(() => new ChatTemplates(new Map()).render(hello, {}, {})).toThrow(/has no chat template/);
  expect(() => one('x').render(hello, { template: 'rag' }, {})).toThrow(/"rag" \(there are: default\)/);
  expect(() => one('{% if %}').render(hello, {}, {})).toThrow(/"default" does not parse/);
  expect(() => one("{{ strftime_now('%Q') }}").render(hello, {}, {})).toThrow(/%Q is not supported/);
});

test('a variable that a template cannot hold is an error of the template, not a crash', () => {
  expect(() => one('x').render(hello, { variables: { big: 2n ** 70n } }, {})).toThrow(ChatTemplateError);
});

test('tools pick the template for them', () => {
  const both = new ChatTemplates(
    new Map([
      ['default', 'plain'],
      ['tool_use', '{{ tools | length }} tools'],
    ]),
  );
  expect(both.render(hello, {}, {})).toBe('plain');
  expect(both.render(hello, { tools: [{}, {}] }, {})).toBe('2 tools');
  expect(both.render(hello, { tools: [{}], template: 'default' }, {})).toBe('plain');
});

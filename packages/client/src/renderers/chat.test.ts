import { readFileSync } from 'node:fs';
import { Tokenizer } from '@anneal/tokenizer';
import { ModelInput, TensorData } from '@anneal/types';
import { expect, test } from 'vitest';
import { chatDatum, renderChat, renderPrompt } from './chat.ts';

const read = (path: string) => JSON.parse(readFileSync(new URL(path, import.meta.url), 'utf8'));

interface Case {
  family: string;
  tokenizer: string;
  /** Instead of the tokenizer's own. */
  chat_template?: string;
  messages: { role: string; content: string }[];
  ids: number[];
  assistant_mask: number[];
  prompt_ids: number[];
}

const cases: Case[] = read('../../fixtures/chat.json');

function tokenizerOf(name: string, template?: string): Tokenizer {
  const folder = `../../../tokenizer/fixtures/${name}`;
  return new Tokenizer({
    tokenizer: read(`${folder}/tokenizer.json`),
    config: read(`${folder}/tokenizer_config.json`),
    ...(template !== undefined && { chatTemplates: { default: template } }),
  });
}

test.each(cases)('tokens and mask equal those of transformers ($family, case %#)', (example) => {
  const tokenizer = tokenizerOf(example.tokenizer, example.chat_template);
  const { tokens, weights } = renderChat(tokenizer, example.messages);
  expect(tokens).toEqual(example.ids);
  expect(weights).toEqual(example.assistant_mask);
  expect(ModelInput.toInts(renderPrompt(tokenizer, example.messages.slice(0, 1)))).toEqual(
    example.prompt_ids,
  );
});

test('an example predicts each next token, weighted as that token is', () => {
  const [example] = cases;
  const { model_input, loss_fn_inputs } = chatDatum(tokenizerOf(example!.tokenizer), example!.messages);
  expect(ModelInput.toInts(model_input)).toEqual(example!.ids.slice(0, -1));
  expect(TensorData.toNested(loss_fn_inputs.target_tokens!)).toEqual(example!.ids.slice(1));
  expect(TensorData.toNested(loss_fn_inputs.weights!)).toEqual(example!.assistant_mask.slice(1));
});

test('the last answer alone, and a cut at the end', () => {
  const example = cases[1]!;
  const tokenizer = tokenizerOf(example.tokenizer);
  const last = renderChat(tokenizer, example.messages, { trainOn: 'last_assistant_message' });
  expect(last.tokens).toEqual(example.ids);
  const lastRun = example.assistant_mask.lastIndexOf(0, example.assistant_mask.lastIndexOf(1));
  expect(last.weights).toEqual(example.assistant_mask.map((mask, index) => (index > lastRun ? mask : 0)));
  expect(renderChat(tokenizer, example.messages, { maxLength: 5 }).tokens).toEqual(example.ids.slice(0, 5));
});

test('a chat without an answer is no example', () => {
  const tokenizer = tokenizerOf('qwen3');
  expect(() => chatDatum(tokenizer, [{ role: 'user', content: 'Hi' }])).toThrow('no assistant message');
});

test('a template that rewrites earlier turns is refused for all answers, and serves the last', () => {
  const files = { tokenizer: read('../../../tokenizer/fixtures/qwen3/tokenizer.json') };
  const forgetful =
    "{% for m in messages %}{{ '<|im_start|>' + m.role + ':' }}" +
    "{% if loop.last or m.role != 'assistant' %}{{ m.content }}{% else %}{{ '...' }}{% endif %}{{ '<|im_end|>' }}{% endfor %}" +
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant:' }}{% endif %}";
  const tokenizer = new Tokenizer({ ...files, chatTemplates: { default: forgetful } });
  const chat = ['q', 'a', 'q', 'b'].map((content, index) => ({
    role: index % 2 ? 'assistant' : 'user',
    content,
  }));
  expect(() => renderChat(tokenizer, chat)).toThrow('rewrites earlier turns');
  const { tokens, weights } = renderChat(tokenizer, chat, { trainOn: 'last_assistant_message' });
  expect(tokenizer.decode(tokens.filter((_, index) => weights[index] === 1))).toBe('b<|im_end|>');
});

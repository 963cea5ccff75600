/** What the TypeScript examples share: the data, the chat format, and greedy answers. */
import { readFileSync } from 'node:fs';
import type { SamplingClient, TrainingClient } from '@anneal/client';
import type { Tokenizer } from '@anneal/tokenizer';
import { loadTokenizer } from '@anneal/tokenizer/node';

export const BASE_MODEL = process.env.BASE_MODEL ?? 'HuggingFaceTB/SmolLM2-135M-Instruct';
const END = '<|im_end|>';

export interface Message {
  role: string;
  content: string;
}

export function readJsonl<Row>(name: string): Row[] {
  const text = readFileSync(new URL(`data/${name}`, import.meta.url), 'utf8');
  return text
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Row);
}

/** ANNEAL_TOKENIZER names a folder with tokenizer.json; otherwise it comes from the Hugging Face hub. */
export async function tokenizerOf(model: TrainingClient): Promise<Tokenizer> {
  const folder = process.env.ANNEAL_TOKENIZER;
  return folder ? await loadTokenizer(folder) : await model.getTokenizer();
}

function encode(tokenizer: Tokenizer, text: string): number[] {
  return tokenizer.encode(text, { addSpecialTokens: false });
}

export function promptTokens(tokenizer: Tokenizer, user: string): number[] {
  return encode(tokenizer, `<|im_start|>user\n${user}${END}\n<|im_start|>assistant\n`);
}

export function answerTokens(tokenizer: Tokenizer, answer: string): number[] {
  return encode(tokenizer, `${answer}${END}`);
}

export function endTokens(tokenizer: Tokenizer): number[] {
  return encode(tokenizer, END);
}

export function textOf(tokenizer: Tokenizer, tokens: readonly number[]): string {
  const text = tokenizer.decode([...tokens]);
  return text.endsWith(END) ? text.slice(0, -END.length) : text;
}

/** All questions are in flight together; the server batches them. */
export async function greedyAnswers(
  sampler: SamplingClient,
  tokenizer: Tokenizer,
  users: string[],
): Promise<string[]> {
  const samplingParams = { max_tokens: 48, temperature: 0, stop: endTokens(tokenizer) };
  const samples = users.map((user) =>
    sampler.sample({ prompt: promptTokens(tokenizer, user), samplingParams }),
  );
  const results = await Promise.all(samples);
  return results.map(({ sequences }) => textOf(tokenizer, sequences[0]?.tokens ?? []));
}

/** What the TypeScript examples share: options, the data, the chat format, and how many answers are exactly right. */
import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { Datum, ModelInput, type SamplingClient, type TrainingClient } from '@anneal/client';
import type { Tokenizer } from '@anneal/tokenizer';
import { loadTokenizer } from '@anneal/tokenizer/node';

export const BASE_MODEL = process.env.BASE_MODEL ?? 'HuggingFaceTB/SmolLM2-135M-Instruct';
const END = '<|im_end|>';

export interface Message {
  role: string;
  content: string;
}

/** A row of sft.jsonl: question and answer. */
export interface Conversation {
  messages: [Message, Message];
  task: string;
}

/** Options such as `--steps 40` over their defaults, which are numbers, and `texts` that may be absent. */
export function commandLine<Name extends string, Text extends string = never>(
  defaults: Record<Name, number>,
  texts: readonly Text[] = [],
): Record<Name, number> & Partial<Record<Text, string>> {
  const names = [...Object.keys(defaults), ...texts];
  const options = Object.fromEntries(names.map((name) => [name, { type: 'string' as const }]));
  const given = Object.entries(parseArgs({ options }).values).map(([name, text]) => {
    const value = name in defaults ? Number(text) : text;
    if (Number.isNaN(value)) throw new TypeError(`--${name} is ${text}; it must be a number.`);
    return [name, value];
  });
  return { ...defaults, ...Object.fromEntries(given) };
}

export function readJsonl<Row>(name: string): Row[] {
  const text = readFileSync(new URL(`data/${name}`, import.meta.url), 'utf8');
  return text
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Row);
}

/** `count` rows from the `step`-th batch on, starting again at the end. */
export function batchOf<Row>(rows: readonly Row[], step: number, count: number): Row[] {
  return Array.from({ length: count }, (_, i) => rows[(step * count + i) % rows.length]!);
}

/** ANNEAL_TOKENIZER names a folder with tokenizer.json; otherwise it comes from the Hugging Face hub. */
export async function tokenizerOf(model: TrainingClient): Promise<Tokenizer> {
  const folder = process.env.ANNEAL_TOKENIZER;
  return folder ? await loadTokenizer(folder) : await model.getTokenizer();
}

export function encode(tokenizer: Tokenizer, text: string): number[] {
  return tokenizer.encode(text, { addSpecialTokens: false });
}

export function promptTokens(tokenizer: Tokenizer, user: string): number[] {
  return encode(tokenizer, `<|im_start|>user\n${user}${END}\n<|im_start|>assistant\n`);
}

export function endTokens(tokenizer: Tokenizer): number[] {
  return encode(tokenizer, END);
}

export function textOf(tokenizer: Tokenizer, tokens: readonly number[]): string {
  const text = tokenizer.decode([...tokens]);
  return text.endsWith(END) ? text.slice(0, -END.length) : text;
}

export function answerTokens(tokenizer: Tokenizer, answer: string): number[] {
  return encode(tokenizer, `${answer}${END}`);
}

/** Next-token targets over prompt and answer; only the answer and its end mark have weight. */
export function datumOf(tokenizer: Tokenizer, user: string, answer: string): Datum {
  const prompt = promptTokens(tokenizer, user);
  const tokens = [...prompt, ...answerTokens(tokenizer, answer)];
  return Datum.from({
    model_input: ModelInput.fromInts(tokens.slice(0, -1)),
    loss_fn_inputs: {
      target_tokens: tokens.slice(1),
      weights: tokens.slice(1).map((_, i) => (i < prompt.length - 1 ? 0 : 1)),
    },
  });
}

export function conversationDatum(tokenizer: Tokenizer, { messages: [user, answer] }: Conversation): Datum {
  return datumOf(tokenizer, user.content, answer.content);
}

/** All questions are in flight together; the server batches them. */
export async function greedyAnswers(
  sampler: SamplingClient,
  tokenizer: Tokenizer,
  users: string[],
): Promise<number[][]> {
  const samplingParams = { max_tokens: 48, temperature: 0, stop: endTokens(tokenizer) };
  const samples = users.map((user) =>
    sampler.sample({ prompt: promptTokens(tokenizer, user), samplingParams }),
  );
  const results = await Promise.all(samples);
  return results.map(({ sequences }) => [...(sequences[0]?.tokens ?? [])]);
}

/** Percentage of greedy answers that are exactly right, by task on the way. */
export async function exactMatch(
  sampler: SamplingClient,
  tokenizer: Tokenizer,
  rows: Conversation[],
): Promise<string> {
  const questions = rows.map(({ messages: [user] }) => user.content);
  const answers = await greedyAnswers(sampler, tokenizer, questions);
  const right = rows.filter(
    ({ messages: [, answer] }, i) => textOf(tokenizer, answers[i]!).trim() === answer.content,
  );
  for (const task of [...new Set(rows.map((row) => row.task))].sort()) {
    const [hits, all] = [right, rows].map((some) => some.filter((row) => row.task === task).length);
    console.log(`  ${task.padEnd(12)} ${hits} of ${all}`);
  }
  return `${((100 * right.length) / rows.length).toFixed(1)}%`;
}

/** Reads training data, one JSON object a line, and turns it into what the losses take. */
import { readFileSync } from 'node:fs';
import { type ChatTokenizer, chatDatum, type Datum } from '@anneal/client';
import { z } from 'zod';
import { usageError } from '../errors.ts';

export type TrainingKind = 'sft' | 'dpo';

/** Datums that belong together: one of a conversation, or two of a pair, the chosen one first. */
export type Example = Datum[];

const Message = z.looseObject({ role: z.string().min(1), content: z.string() });
const Answer = z.union([z.string().transform((content) => ({ role: 'assistant', content })), Message]);
const Answers = z.union([Answer.transform((message) => [message]), z.array(Message).min(1)]);
const Prompt = z.union([
  z.string().transform((content) => [{ role: 'user', content }]),
  z.array(Message).min(1),
]);

const Conversation = z.looseObject({ messages: z.array(Message).min(1) });
const Pair = z.looseObject({ prompt: Prompt, chosen: Answers, rejected: Answers });

/**
 * @param maxLength tokens of an example that are kept
 * @throws CliError that names the line, the field and what it must be
 */
export function readExamples(
  file: string,
  kind: TrainingKind,
  tokenizer: ChatTokenizer,
  maxLength: number | undefined,
): Example[] {
  const options = maxLength === undefined ? {} : { maxLength };
  const examples = readLines(file).map(({ number, text }): Example => {
    const where = `${file}:${number}`;
    const conversations = kind === 'sft' ? conversationIn(text, where) : pairIn(text, where);
    return conversations.map((messages) => {
      try {
        const trainOn = kind === 'sft' ? 'all_assistant_messages' : 'last_assistant_message';
        return withWeight(chatDatum(tokenizer, messages, { ...options, trainOn }));
      } catch (cause) {
        throw usageError(`${where}: ${(cause as Error).message}`, { cause });
      }
    });
  });
  if (examples.length === 0) throw usageError(`${file} holds no examples`);
  return examples;
}

/** How many positions of a datum are trained on. */
export function weightOf({ loss_fn_inputs }: Datum): number {
  return [...(loss_fn_inputs.weights?.data ?? [])].reduce((sum, weight) => sum + Number(weight), 0);
}

function withWeight(datum: Datum): Datum {
  if (weightOf(datum) > 0) return datum;
  throw new RangeError('nothing of the answer is within --max-length');
}

function readLines(file: string): { number: number; text: string }[] {
  let content: string;
  try {
    content = readFileSync(file, 'utf8');
  } catch (cause) {
    throw usageError(`${file} cannot be read: ${(cause as Error).message}`, { cause });
  }
  const lines = content.split('\n').map((text, index) => ({ number: index + 1, text }));
  return lines.filter(({ text }) => text.trim() !== '');
}

type Messages = z.infer<typeof Message>[];

function conversationIn(text: string, where: string): Messages[] {
  return [parse(Conversation, text, where).messages];
}

function pairIn(text: string, where: string): Messages[] {
  const { prompt, chosen, rejected } = parse(Pair, text, where);
  return [chosen, rejected].map((answer) => [...prompt, ...answer]);
}

function parse<S extends z.ZodType>(schema: S, text: string, where: string): z.output<S> {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw usageError(`${where} is not JSON: ${(cause as Error).message}`, { cause });
  }
  const parsed = schema.safeParse(json);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  throw usageError(`${where}: ${issue!.path.join('.') || 'the line'}: ${issue!.message}`);
}

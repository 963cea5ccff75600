/** Turns chat messages into prompts and training examples, with the model's own chat template. */

import type { ChatMessage, ChatTemplateOptions, Tokenizer } from '@anneal/tokenizer';
import { Datum, ModelInput } from '@anneal/types';

/** What is used of a tokenizer. */
export type ChatTokenizer = Pick<Tokenizer, 'encode' | 'applyChatTemplate' | 'specialTokenIds'>;

/** Which assistant messages are trained on. */
export type TrainOn = 'all_assistant_messages' | 'last_assistant_message';

/** How a conversation becomes an example. */
export interface ChatDatumOptions extends Omit<ChatTemplateOptions, 'addGenerationPrompt'> {
  /** Default: `all_assistant_messages`. */
  trainOn?: TrainOn;
  /** Tokens beyond this are cut off at the end. Default: none are. */
  maxLength?: number;
}

/** Tokens of a conversation; `weights` are 1 on those that an assistant said, its end of turn included, else 0. */
export interface RenderedChat {
  tokens: number[];
  weights: number[];
}

/** The prompt that asks for the next assistant message. */
export function renderPrompt(
  tokenizer: ChatTokenizer,
  messages: readonly ChatMessage[],
  options: Omit<ChatTemplateOptions, 'addGenerationPrompt'> = {},
): ModelInput {
  const text = tokenizer.applyChatTemplate(messages, { ...options, addGenerationPrompt: true });
  return ModelInput.fromInts(tokenizer.encode(text, { addSpecialTokens: false }));
}

/** Longer than any special token. */
const MAX_TOKEN_LENGTH = 64;

/** What an assistant said: the text before it, and the text up to its end. */
interface Answer {
  before: string;
  end: string;
}

/** A conversation's text, and where in it the trained answers are. */
interface Script {
  text: string;
  answers: Answer[];
}

/** @throws RangeError for templates that rewrite earlier turns: where an answer lies in the whole is then unknown. */
function checkExtends(prefix: string, text: string, index: number): void {
  if (text.startsWith(prefix)) return;
  const reason = 'the chat template rewrites earlier turns when later ones follow';
  throw new RangeError(`message ${index}: ${reason}; train on the last_assistant_message alone`);
}

/**
 * The text up to its end-of-turn token. The line break that templates write after it is no part of what the assistant
 * says: sampling ends before it.
 */
function withoutTail(tokenizer: ChatTokenizer, text: string): string {
  const trimmed = text.trimEnd();
  const last = tokenizer.encode(trimmed.slice(-MAX_TOKEN_LENGTH), { addSpecialTokens: false }).at(-1);
  return last !== undefined && tokenizer.specialTokenIds.has(last) ? trimmed : text;
}

function isTrainedOn(messages: readonly ChatMessage[], index: number, trainOn: TrainOn): boolean {
  if (messages[index]?.role !== 'assistant') return false;
  return trainOn === 'all_assistant_messages' || index === messages.length - 1;
}

function scriptOf(
  tokenizer: ChatTokenizer,
  messages: readonly ChatMessage[],
  options: ChatDatumOptions,
): Script {
  const { trainOn = 'all_assistant_messages', maxLength: _, ...template } = options;
  const render = (count: number, addGenerationPrompt: boolean) =>
    tokenizer.applyChatTemplate(messages.slice(0, count), { ...template, addGenerationPrompt });
  const answers: Answer[] = [];
  let done = '';
  messages.forEach((_message, index) => {
    if (!isTrainedOn(messages, index, trainOn)) return;
    const before = render(index, true);
    const end = withoutTail(tokenizer, render(index + 1, false));
    checkExtends(done, before, index);
    checkExtends(before, end, index);
    answers.push({ before, end });
    done = end;
  });
  const text = render(messages.length, false);
  checkExtends(done, text, messages.length - 1);
  return { text, answers };
}

/** How many of the text's tokens come before the end of its beginning `prefix`. */
function tokensBefore(ids: readonly number[], prefix: readonly number[]): number {
  const differing = prefix.findIndex((id, index) => id !== ids[index]);
  return differing < 0 ? prefix.length : differing;
}

/**
 * Tokens and weights of a conversation: those that transformers' `apply_chat_template` gives, with its mask of what the
 * assistant says. A token that reaches from the prompt into an answer, as happens where a template marks turns by plain
 * text, counts as the answer's.
 *
 * @throws RangeError when there is no assistant message to train on, or the template rewrites earlier turns.
 */
export function renderChat(
  tokenizer: ChatTokenizer,
  messages: readonly ChatMessage[],
  options: ChatDatumOptions = {},
): RenderedChat {
  const { text, answers } = scriptOf(tokenizer, messages, options);
  const encode = (part: string) => tokenizer.encode(part, { addSpecialTokens: false });
  const tokens = encode(text);
  const weights = tokens.map(() => 0);
  for (const { before, end } of answers) {
    const upToEnd = encode(end);
    const first = tokensBefore(tokens, encode(before));
    const last = tokensBefore(tokens, upToEnd);
    // Where the answer's end lies within a token, that token is the answer's too.
    weights.fill(1, first, last < upToEnd.length ? last + 1 : last);
  }
  if (!weights.includes(1)) throw new RangeError('there is no assistant message to train on');
  return { tokens: tokens.slice(0, options.maxLength), weights: weights.slice(0, options.maxLength) };
}

/** A `cross_entropy` example from tokens: each position predicts the next token, weighted as that token is. */
export function nextTokenDatum({ tokens, weights }: RenderedChat): Datum {
  if (tokens.length < 2) throw new RangeError(`an example needs two tokens at least, got ${tokens.length}`);
  return Datum.from({
    model_input: ModelInput.fromInts(tokens.slice(0, -1)),
    loss_fn_inputs: { target_tokens: tokens.slice(1), weights: weights.slice(1) },
  });
}

/**
 * A `cross_entropy` example that trains on what the assistant says, and on nothing else.
 *
 * @example
 * const tokenizer = await model.getTokenizer();
 * const datum = chatDatum(tokenizer, [
 *   { role: 'user', content: 'What is 2 + 2?' },
 *   { role: 'assistant', content: '4' },
 * ]);
 */
export function chatDatum(
  tokenizer: ChatTokenizer,
  messages: readonly ChatMessage[],
  options: ChatDatumOptions = {},
): Datum {
  return nextTokenDatum(renderChat(tokenizer, messages, options));
}

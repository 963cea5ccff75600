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

interface Piece {
  text: string;
  weight: number;
}

/** What follows `prefix`; templates that rewrite earlier turns cannot be cut. */
function after(prefix: string, text: string, index: number): string {
  if (text.startsWith(prefix)) return text.slice(prefix.length);
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

/** The conversation's text, cut where an assistant begins and ends. */
function cut(tokenizer: ChatTokenizer, messages: readonly ChatMessage[], options: ChatDatumOptions): Piece[] {
  const { trainOn = 'all_assistant_messages', maxLength: _, ...template } = options;
  const render = (count: number, addGenerationPrompt: boolean) =>
    tokenizer.applyChatTemplate(messages.slice(0, count), { ...template, addGenerationPrompt });
  const pieces: Piece[] = [];
  let done = '';
  const add = (text: string, weight: number, index: number) => {
    pieces.push({ text: after(done, text, index), weight });
    done = text;
  };
  messages.forEach((_message, index) => {
    if (!isTrainedOn(messages, index, trainOn)) return;
    add(render(index, true), 0, index);
    add(withoutTail(tokenizer, render(index + 1, false)), 1, index);
  });
  const whole = render(messages.length, false);
  if (whole !== done) add(whole, 0, messages.length - 1);
  return pieces.filter((piece) => piece.text !== '');
}

/**
 * Tokens and weights of a conversation. Each assistant message is tokenized apart from what precedes it, as the model
 * sees it when it samples: its first token never reaches back into the prompt.
 *
 * @throws RangeError when there is no assistant message to train on, or the template rewrites earlier turns.
 */
export function renderChat(
  tokenizer: ChatTokenizer,
  messages: readonly ChatMessage[],
  options: ChatDatumOptions = {},
): RenderedChat {
  const pieces = cut(tokenizer, messages, options);
  if (!pieces.some((piece) => piece.weight > 0)) {
    throw new RangeError('there is no assistant message to train on');
  }
  const tokens: number[] = [];
  const weights: number[] = [];
  for (const { text, weight } of pieces) {
    const ids = tokenizer.encode(text, { addSpecialTokens: false });
    tokens.push(...ids);
    weights.push(...ids.map(() => weight));
  }
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

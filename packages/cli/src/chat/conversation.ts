/** A conversation in the terminal, or the answer to what is piped in. */
import { createInterface, type Interface } from 'node:readline';
import { text } from 'node:stream/consumers';
import { CliError, usageError } from '../errors.ts';
import type { Connection } from '../remote.ts';
import { type ChatRequest, type Message, streamAnswer } from './stream-answer.ts';

export interface ConversationOptions {
  connection: Connection;
  request: ChatRequest;
  system?: string | undefined;
  json?: boolean | undefined;
}

export interface Streams {
  input: NodeJS.ReadableStream;
  output: NodeJS.WritableStream;
  /** Where prompts go with `json`, and what could not be answered. */
  notes: NodeJS.WritableStream;
}

const HELP =
  'Ctrl-C cancels an answer, and leaves where none is under way; /reset begins anew, /exit leaves.';

/** Answers the whole of the input as one message. */
export async function answerInput(options: ConversationOptions, { input, output }: Streams): Promise<void> {
  const content = (await text(input)).trim();
  if (content === '') throw usageError('nothing was piped in: pipe a message, or run it in a terminal');
  await answer(options, [...opening(options), { role: 'user', content }], output);
}

/** Answers line by line until the person leaves. */
export async function converse(
  options: ConversationOptions,
  { input, output, notes }: Streams,
): Promise<void> {
  const prompts = options.json ? notes : output;
  const lines = createInterface({ input, output: prompts, prompt: '> ', terminal: true });
  let messages = opening(options);
  let running: AbortController | undefined;
  lines.on('SIGINT', () => (running ? running.abort() : lines.close()));
  notes.write(`${options.request.model}. ${HELP}\n`);
  for await (const line of promptedLines(lines)) {
    const content = line.trim();
    if (content === '/exit') break;
    if (content === '/reset') messages = opening(options);
    else if (content.startsWith('/')) notes.write(`There is no ${content.split(' ')[0]}. ${HELP}\n`);
    else if (content !== '') {
      running = new AbortController();
      const asked: Message[] = [...messages, { role: 'user', content }];
      // What is not answered at all is not a part of the conversation.
      messages = (await answerOrTell(options, asked, { output, notes }, running.signal)) ?? messages;
      running = undefined;
    }
  }
  lines.close();
}

async function* promptedLines(lines: Interface): AsyncGenerator<string> {
  lines.prompt();
  for await (const line of lines) {
    yield line;
    lines.prompt();
  }
}

function opening({ system }: ConversationOptions): Message[] {
  return system === undefined ? [] : [{ role: 'system', content: system }];
}

/** The conversation with the answer, or as far as it came before it was cancelled; nothing where there is none. */
async function answerOrTell(
  options: ConversationOptions,
  messages: Message[],
  { output, notes }: Pick<Streams, 'output' | 'notes'>,
  signal: AbortSignal,
): Promise<Message[] | undefined> {
  let said = '';
  const onText = (piece: string) => {
    said += piece;
  };
  try {
    await answer(options, messages, output, { onText, signal });
  } catch (error) {
    if (!signal.aborted && !(error instanceof CliError)) throw error;
    if (!options.json && said !== '') output.write('\n');
    notes.write(signal.aborted ? '(cancelled)\n' : `anneal: error: ${(error as Error).message}\n`);
  }
  return said === '' ? undefined : [...messages, { role: 'assistant', content: said }];
}

async function answer(
  { connection, request, json }: ConversationOptions,
  messages: Message[],
  output: NodeJS.WritableStream,
  { onText, signal }: { onText?: (piece: string) => void; signal?: AbortSignal } = {},
): Promise<void> {
  const say = (piece: string) => {
    onText?.(piece);
    if (!json) output.write(piece);
  };
  const { content, finishReason, usage } = await streamAnswer(
    connection,
    { ...request, messages },
    say,
    signal,
  );
  const result = { model: request.model, content, finish_reason: finishReason, usage };
  output.write(json ? `${JSON.stringify(result)}\n` : '\n');
}

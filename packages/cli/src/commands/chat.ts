import type { Command } from 'commander';
import { answerInput, type ConversationOptions, converse } from '../chat/conversation.ts';
import { addRemoteOptions, type RemoteOptions, withConnection } from '../remote.ts';
import { onlyModel } from '../served-model.ts';
import { naturalNumber } from './listing.ts';
import { fraction, numberFromZero } from './numbers.ts';

/** As in the console's playground: small models ramble at 1, and some go on until their context is full. */
const TEMPERATURE = 0.7;
const MOST_TOKENS = 1024;

interface ChatOptions extends RemoteOptions {
  model?: string;
  system?: string;
  temperature: number;
  topP?: number;
  maxTokens: number;
}

export function chatCommand(program: Command): Command {
  const command = program
    .createCommand('chat')
    .copyInheritedSettings(program)
    .description('talk to a model of a running server; answers what is piped in, where something is')
    .option('--model <model>', 'base model or tinker:// path (default: the served model)')
    .option('--system <text>', 'what the model is told first')
    .option('--temperature <number>', 'from 0, always the likeliest token, up', numberFromZero, TEMPERATURE)
    .option('--top-p <number>', 'sample from this much of the probability', fraction)
    .option('--max-tokens <number>', 'end answers after so many tokens', naturalNumber, MOST_TOKENS);
  return addRemoteOptions(command).action(chat);
}

async function chat(options: ChatOptions): Promise<void> {
  await withConnection(options, async (connection) => {
    const { system, json, temperature, topP: top_p, maxTokens: max_tokens } = options;
    const model = options.model ?? (await onlyModel(connection));
    const request = { model, temperature, top_p, max_tokens };
    const conversation: ConversationOptions = { connection, request, system, json };
    const streams = { input: process.stdin, output: process.stdout, notes: process.stderr };
    await (process.stdin.isTTY ? converse : answerInput)(conversation, streams);
  });
}

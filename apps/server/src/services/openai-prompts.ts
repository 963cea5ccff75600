import { type ChatMessage, ChatTemplateError, type Tokenizer } from '@anneal/tokenizer';
import type {
  ChatCompletionRequest,
  ChatRequestMessage,
  CompletionRequest,
} from '../wire/openai-requests.ts';
import { OpenAiRefusal } from './openai-refusal.ts';

/** A prompt's token ids, and its text where that was given. */
export interface Prompt {
  ids: Int32Array;
  text: string;
}

/** The prompts of `/completions`: texts or token ids, one or several. */
export function completionPrompts(prompt: CompletionRequest['prompt'], tokenizer: Tokenizer): Prompt[] {
  if (typeof prompt === 'string') return [fromText(prompt, tokenizer)];
  if (prompt.every((item) => typeof item === 'number')) return [fromIds(prompt, tokenizer)];
  return prompt.map((item) =>
    typeof item === 'string' ? fromText(item, tokenizer) : fromIds(item as number[], tokenizer),
  );
}

/**
 * The prompt of a conversation by the model's own chat template, up to the header of the answer.
 *
 * @throws OpenAiRefusal when there is no template, it refuses the messages, or it shows no tools where some are given
 */
export function chatPrompt(request: ChatCompletionRequest, tokenizer: Tokenizer): Prompt {
  const tools = shownTools(request);
  const messages = request.messages.map(toTemplateMessage);
  const render = (shown: typeof tools): string =>
    tokenizer.applyChatTemplate(messages, {
      addGenerationPrompt: true,
      ...(shown.length > 0 ? { tools: shown } : {}),
      ...(request.chat_template_kwargs ? { variables: request.chat_template_kwargs } : {}),
    });
  try {
    const text = render(tools);
    if (tools.length > 0 && text === render([])) throw noTools();
    return { ids: Int32Array.from(tokenizer.encode(text, { addSpecialTokens: false })), text };
  } catch (cause) {
    if (!(cause instanceof ChatTemplateError)) throw cause;
    throw new OpenAiRefusal('invalid_request', `messages: ${cause.message}`, { param: 'messages', cause });
  }
}

/** The tools that the model is told of. */
export function shownTools({ tools, tool_choice: choice }: ChatCompletionRequest) {
  return choice === 'none' ? [] : (tools ?? []);
}

function noTools(): OpenAiRefusal {
  const message =
    'tools: the chat template of this model does not show tools; describe them in a system message instead';
  return new OpenAiRefusal('invalid_request', message, { param: 'tools' });
}

function fromText(text: string, tokenizer: Tokenizer): Prompt {
  return { ids: Int32Array.from(tokenizer.encode(text)), text };
}

function fromIds(ids: readonly number[], tokenizer: Tokenizer): Prompt {
  return { ids: Int32Array.from(ids), text: tokenizer.decode(ids) };
}

/** Templates know texts, the role `system`, and arguments as objects. */
function toTemplateMessage(message: ChatRequestMessage, index: number): ChatMessage {
  const { role, content, tool_calls: calls, ...rest } = message;
  const given = Object.entries(rest).filter(([, value]) => value != null);
  return {
    ...Object.fromEntries(given),
    role: role === 'developer' ? 'system' : role,
    content: Array.isArray(content) ? content.map(({ text }) => text).join('\n') : (content ?? ''),
    ...(calls
      ? {
          tool_calls: calls.map((call, at) => ({
            ...call,
            function: {
              name: call.function.name,
              arguments: parseArguments(call.function.arguments, `messages.${index}.tool_calls.${at}`),
            },
          })),
        }
      : {}),
  };
}

function parseArguments(text: string, path: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    const param = `${path}.function.arguments`;
    throw new OpenAiRefusal('invalid_request', `${param}: ${JSON.stringify(text)} is no JSON`, {
      param,
      cause,
    });
  }
}

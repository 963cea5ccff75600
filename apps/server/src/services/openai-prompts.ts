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
 * @throws OpenAiRefusal when there is no template, or it refuses the messages
 */
export function chatPrompt(request: ChatCompletionRequest, tokenizer: Tokenizer): Prompt {
  const tools = request.tool_choice === 'none' ? [] : (request.tools ?? []);
  try {
    const text = tokenizer.applyChatTemplate(request.messages.map(toTemplateMessage), {
      addGenerationPrompt: true,
      ...(tools.length > 0 ? { tools } : {}),
      ...(request.chat_template_kwargs ? { variables: request.chat_template_kwargs } : {}),
    });
    return { ids: Int32Array.from(tokenizer.encode(text, { addSpecialTokens: false })), text };
  } catch (cause) {
    if (!(cause instanceof ChatTemplateError)) throw cause;
    throw new OpenAiRefusal('invalid_request', `messages: ${cause.message}`, { param: 'messages', cause });
  }
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

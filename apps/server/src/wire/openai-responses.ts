/** Answers of the OpenAI-compatible calls. */
import * as z from 'zod';

const created = z.int().describe('Seconds since 1970');
const finishReason = z.enum(['stop', 'length']).nullable();
const chatFinishReason = z.enum(['stop', 'length', 'tool_calls']).nullable();

export const OpenAiModelObject = z.object({
  id: z.string(),
  object: z.literal('model'),
  created,
  owned_by: z.string(),
});

export const OpenAiModelList = z.object({ object: z.literal('list'), data: z.array(OpenAiModelObject) });

const Usage = z.object({
  prompt_tokens: z.int(),
  completion_tokens: z.int(),
  total_tokens: z.int(),
  prompt_tokens_details: z.object({ cached_tokens: z.int() }),
});

const CompletionLogprobs = z.object({
  tokens: z.array(z.string()),
  token_logprobs: z.array(z.number().nullable()).describe('null where nothing comes before'),
  top_logprobs: z.array(z.record(z.string(), z.number()).nullable()),
  text_offset: z.array(z.int()),
});

const completion = {
  id: z.string(),
  object: z.literal('text_completion'),
  created,
  model: z.string(),
  choices: z.array(
    z.object({
      index: z.int(),
      text: z.string(),
      logprobs: CompletionLogprobs.nullable(),
      finish_reason: finishReason,
    }),
  ),
};

/** Answer of `/completions`. */
export const Completion = z.object({ ...completion, usage: Usage });

/** An event of a streamed `/completions`; with `include_usage`, the last one has the usage and no choices. */
export const CompletionChunk = z.object({ ...completion, usage: Usage.nullish() });

const Score = z.object({
  token: z.string(),
  logprob: z.number(),
  bytes: z.array(z.int()).nullable().describe('null for a part of a character'),
});

const ChatLogprobs = z.object({
  content: z.array(Score.extend({ top_logprobs: z.array(Score) })),
  refusal: z.null(),
});

const chat = { id: z.string(), created, model: z.string() };

const ToolCall = z.object({
  id: z.string(),
  type: z.literal('function'),
  function: z.object({ name: z.string(), arguments: z.string().describe('JSON') }),
});

/** Answer of `/chat/completions`. */
export const ChatCompletion = z.object({
  ...chat,
  object: z.literal('chat.completion'),
  choices: z.array(
    z.object({
      index: z.int(),
      message: z.object({
        role: z.literal('assistant'),
        content: z.string().nullable().describe('null where there are calls only'),
        tool_calls: z.array(ToolCall).optional(),
        refusal: z.null(),
      }),
      logprobs: ChatLogprobs.nullable(),
      finish_reason: chatFinishReason,
    }),
  ),
  usage: Usage,
});

/** An event of a streamed `/chat/completions`; with `include_usage`, the last one has the usage and no choices. */
export const ChatCompletionChunk = z.object({
  ...chat,
  object: z.literal('chat.completion.chunk'),
  choices: z.array(
    z.object({
      index: z.int(),
      delta: z.object({
        role: z.literal('assistant').optional(),
        content: z.string(),
        tool_calls: z
          .array(ToolCall.extend({ index: z.int() }))
          .optional()
          .describe('Each call comes whole'),
      }),
      logprobs: ChatLogprobs.nullable(),
      finish_reason: chatFinishReason,
    }),
  ),
  usage: Usage.nullish(),
});

/** Any error, as OpenAI clients read it; in a stream that fails, the last event. */
export const OpenAiErrorBody = z.object({
  error: z.object({
    message: z.string(),
    type: z.enum(['invalid_request_error', 'authentication_error', 'rate_limit_error', 'server_error']),
    param: z.string().nullable().describe("The request's field that is at fault"),
    code: z.string().nullable(),
  }),
});

export type OpenAiErrorBody = z.infer<typeof OpenAiErrorBody>;

/** Responses of a call: its answer, as one body or as events, and errors. */
export function openAiAnswers<Whole extends z.ZodType, Event extends z.ZodType>(whole: Whole, event?: Event) {
  const errors = { '4xx': OpenAiErrorBody, '5xx': OpenAiErrorBody };
  if (!event) return { 200: whole, ...errors };
  const events = { schema: event.describe('Each event is one of these; [DONE] ends the stream') };
  const content = { 'application/json': { schema: whole }, 'text/event-stream': events };
  return { 200: { description: 'The answer; events with stream', content }, ...errors };
}

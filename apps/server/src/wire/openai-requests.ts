/** Requests of the OpenAI-compatible calls. What is not listed here is refused, never ignored. */
import * as z from 'zod';

const MAX_CHOICES = 128;
const MAX_TOP_LOGPROBS = 20;

/** A field that exists in OpenAI's API and that only takes its neutral value here. */
function only<T extends z.ZodType>(neutral: T) {
  return neutral.nullish();
}

const tokenId = z.int().min(0);
const stop = z.union([z.string().min(1), z.array(z.string().min(1)).max(16)]);
const temperature = z.number().min(0).max(100);
const topP = z.number().gt(0).max(1);
const seed = z.int();

const generation = {
  model: z.string().min(1).describe('A served base model, or the tinker:// path of a checkpoint'),
  temperature: temperature.nullish().describe('0 is greedy; default 1'),
  top_p: topP.nullish(),
  top_k: z.int().min(-1).nullish().describe('Beyond the OpenAI API: -1 is off'),
  n: z.int().min(1).max(MAX_CHOICES).nullish(),
  stop: stop.nullish(),
  seed: seed.nullish(),
  stream: z.boolean().nullish(),
  stream_options: z.strictObject({ include_usage: z.boolean().nullish() }).nullish(),
  user: z.string().nullish(),
  frequency_penalty: only(z.literal(0, 'only 0 is supported')),
  presence_penalty: only(z.literal(0, 'only 0 is supported')),
  logit_bias: only(
    z.record(z.string(), z.number()).refine((bias) => Object.keys(bias).length === 0, 'it is not supported'),
  ),
};

/** Body of `/completions`. */
export const CompletionRequest = z.strictObject({
  ...generation,
  prompt: z.union(
    [z.string(), z.array(z.string()).min(1), z.array(tokenId).min(1), z.array(z.array(tokenId)).min(1)],
    'it must be a text, a list of texts, a list of token ids, or a list of such lists',
  ),
  max_tokens: z.int().min(0).nullish().describe('Default 16; 0 only with echo'),
  logprobs: z.int().min(0).max(MAX_TOP_LOGPROBS).nullish(),
  echo: z.boolean().nullish(),
  best_of: z.int().min(1).nullish().describe('Only what n is'),
  suffix: only(z.literal('', 'it is not supported')),
});

const textPart = z.strictObject({
  type: z.literal('text', 'only text parts are supported'),
  text: z.string(),
});
const content = z.union(
  [z.string(), z.array(textPart)],
  'it must be a text or a list of parts of the type "text": the served models read text only',
);

const toolCall = z.strictObject({
  id: z.string(),
  type: z.literal('function'),
  function: z.strictObject({ name: z.string(), arguments: z.string().describe('JSON') }),
});

const message = z.strictObject({
  role: z.enum(['system', 'developer', 'user', 'assistant', 'tool']),
  content: content.nullish(),
  name: z.string().nullish(),
  tool_calls: z.array(toolCall).nullish(),
  tool_call_id: z.string().nullish(),
  reasoning_content: z.string().nullish(),
  refusal: only(z.literal('', 'it is not supported')),
});

const tool = z.strictObject({
  type: z.literal('function'),
  function: z.strictObject({
    name: z.string(),
    description: z.string().nullish(),
    parameters: z.record(z.string(), z.unknown()).nullish(),
    strict: only(z.literal(false, 'only false is supported: nothing constrains the arguments')),
  }),
});

/** Body of `/chat/completions`. */
export const ChatCompletionRequest = z.strictObject({
  ...generation,
  messages: z.array(message).min(1),
  max_tokens: z.int().min(1).nullish().describe('Default: as many as fit'),
  max_completion_tokens: z.int().min(1).nullish().describe('The newer name of max_tokens'),
  logprobs: z.boolean().nullish(),
  top_logprobs: z.int().min(0).max(MAX_TOP_LOGPROBS).nullish(),
  tools: z.array(tool).nullish().describe('Shown to the model by its chat template'),
  tool_choice: only(z.enum(['auto', 'none'], 'only "auto" and "none" are supported')),
  response_format: only(
    z.strictObject({ type: z.literal('text', 'only "text" is supported: nothing constrains the answer') }),
  ),
  chat_template_kwargs: z
    .record(z.string(), z.unknown())
    .nullish()
    .describe('Beyond the OpenAI API: further variables of the chat template, such as enable_thinking'),
});

export type CompletionRequest = z.infer<typeof CompletionRequest>;
export type ChatCompletionRequest = z.infer<typeof ChatCompletionRequest>;
export type ChatRequestMessage = ChatCompletionRequest['messages'][number];

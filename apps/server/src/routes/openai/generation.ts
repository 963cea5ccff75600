/** What `/completions` and `/chat/completions` have in common: fields of the request, and the usage of the answer. */
import type { SamplingParams } from '@anneal/engine';
import type { Delta, ScoredToken, Usage } from '../../services/openai-generation.ts';
import { OpenAiRefusal } from '../../services/openai-refusal.ts';
import type { CompletionRequest } from '../../wire/openai-requests.ts';

type Common = Pick<
  CompletionRequest,
  'temperature' | 'top_p' | 'top_k' | 'stop' | 'seed' | 'stream' | 'stream_options'
>;

/** The sampling parameters; without `maxTokens`, as many as fit. */
export function samplingParams(request: Common, maxTokens: number | undefined): SamplingParams {
  const { temperature, top_p: topP, top_k: topK, seed } = request;
  const stop = typeof request.stop === 'string' ? [request.stop] : (request.stop ?? []);
  return {
    temperature: temperature ?? 1,
    topP: topP ?? 1,
    topK: topK || -1,
    ...(maxTokens === undefined ? {} : { maxTokens }),
    ...(seed == null ? {} : { seed: BigInt(seed) }),
    ...(stop.length === 0 ? {} : { stop: { tokenIds: [], strings: stop } }),
  };
}

/** Whether the stream ends with the usage. */
export function wantsUsage(request: Common): boolean {
  if (request.stream_options && !request.stream) {
    throw new OpenAiRefusal('invalid_request', 'stream_options: it needs stream', {
      param: 'stream_options',
    });
  }
  return request.stream_options?.include_usage ?? false;
}

export function usageOf(usage: Usage) {
  return {
    prompt_tokens: usage.promptTokens,
    completion_tokens: usage.completionTokens,
    total_tokens: usage.promptTokens + usage.completionTokens,
    prompt_tokens_details: { cached_tokens: usage.cachedTokens },
  };
}

/** One text of the answer, complete. */
export interface Text {
  text: string;
  tokens: ScoredToken[];
  finish: Delta['finish'];
}

/** All texts, in order. */
export async function collect(deltas: AsyncIterable<Delta>, count: number): Promise<Text[]> {
  const texts = Array.from({ length: count }, (): Text => ({ text: '', tokens: [], finish: null }));
  for await (const { index, text, tokens, finish } of deltas) {
    const whole = texts[index];
    if (!whole) continue;
    whole.text += text;
    whole.tokens.push(...tokens);
    whole.finish = finish ?? whole.finish;
  }
  return texts;
}

/** Seconds since 1970, as `created` counts. */
export function nowSeconds(): number {
  return Math.floor(Date.now() / 1000);
}

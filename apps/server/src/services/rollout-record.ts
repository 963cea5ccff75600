import type { SampleRequest, SampleResult } from '@anneal/engine';
import type { Rollout, Sampler } from '@anneal/store';

/** What is kept of one request: enough to read, and a bound on its row. */
const MAX_PROMPT_TOKENS = 2048;
const MAX_TEXTS = 16;
const MAX_TEXT_TOKENS = 2048;

/** An answered sampling request as it is recorded; of a long prompt the end is kept, of a long text the beginning. */
export function rolloutOf(
  id: string,
  sampler: Sampler,
  request: Omit<SampleRequest, 'samplerId'>,
  result: SampleResult,
): Rollout {
  const { prompt, params } = request;
  return {
    id,
    sessionId: sampler.sessionId,
    owner: sampler.owner,
    samplerId: sampler.id,
    baseModel: sampler.baseModel,
    modelPath: sampler.modelPath,
    at: Date.now(),
    summary: {
      promptTokens: prompt.length,
      texts: result.sequences.map(({ tokens, logprobs, stopReason }) => ({
        tokens: tokens.length,
        meanLogprob: mean(logprobs),
        stopReason,
      })),
      params: {
        temperature: params.temperature,
        topP: params.topP,
        topK: params.topK,
        maxTokens: params.maxTokens ?? null,
      },
    },
    tokens: {
      prompt: [...prompt.subarray(-MAX_PROMPT_TOKENS)],
      texts: result.sequences.slice(0, MAX_TEXTS).map(({ tokens, logprobs }) => ({
        tokens: [...tokens.subarray(0, MAX_TEXT_TOKENS)],
        logprobs: Array.from(logprobs.subarray(0, MAX_TEXT_TOKENS), (value) => Math.round(value * 1e4) / 1e4),
      })),
    },
  };
}

function mean(values: Float32Array): number | null {
  const sum = values.reduce((total, value) => total + value, 0);
  return values.length > 0 && Number.isFinite(sum) ? sum / values.length : null;
}

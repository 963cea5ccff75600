/** Refuses sampling requests that cannot be honoured, before anything is computed. */
import type { StopConditions, Tokenizer } from '@anneal/tokenizer';
import { EngineError, type SampleRequest, type SamplingParams } from '../engine.ts';
import type { DecoderConfig } from '../models/architecture.ts';

/** @returns The largest number of tokens each sample may have. */
export function checkSampleRequest(request: SampleRequest, config: DecoderConfig): { limit: number } {
  const { prompt, params, numSamples } = request;
  const { maxContextLength, vocabSize } = config;
  const refuse = (message: string): never => {
    throw new EngineError('user', message);
  };
  if (prompt.length === 0) refuse('prompt is empty: it must hold at least one token.');
  prompt.forEach((id, i) => {
    if (id < 0 || id >= vocabSize)
      refuse(`prompt token ${i} is ${id}: the vocabulary has ids 0 to ${vocabSize - 1}.`);
  });
  if (!Number.isInteger(numSamples) || numSamples < 1)
    refuse(`num_samples is ${numSamples}: it must be a positive integer.`);
  const room = maxContextLength - prompt.length;
  const limit = params.maxTokens ?? room;
  if (limit < 1 || limit > room) {
    refuse(
      `Prompt length plus max_tokens exceeds the model's context window: ${prompt.length} + ${limit} > ${maxContextLength}.`,
    );
  }
  if (!(params.temperature >= 0 && Number.isFinite(params.temperature)))
    refuse(`temperature is ${params.temperature}: it must be 0 (greedy) or a positive number.`);
  if (!(params.topP > 0 && params.topP <= 1))
    refuse(`top_p is ${params.topP}: it must be above 0 and at most 1.`);
  if (!Number.isInteger(params.topK) || params.topK < -1)
    refuse(`top_k is ${params.topK}: it must be -1 (off) or a positive integer.`);
  checkTargets(request, vocabSize, refuse);
  return { limit };
}

function checkTargets(
  { targetPromptLogprobs: targets, prompt }: SampleRequest,
  vocabSize: number,
  refuse: (message: string) => never,
): void {
  if (!targets) return;
  const [rows, k] = targets.shape;
  if (rows !== prompt.length - 1)
    refuse(
      `target_prompt_logprobs has ${rows} rows: a prompt of ${prompt.length} tokens needs ${prompt.length - 1}.`,
    );
  targets.data.forEach((id, i) => {
    if (id < -1 || id >= vocabSize)
      refuse(
        `target_prompt_logprobs[${Math.floor(i / k)}][${i % k}] is ${id}: ids are -1 (skip) or 0 to ${vocabSize - 1}.`,
      );
  });
}

/** What ends a text: the request's stops, or the model's end-of-text ids. */
export function stopConditions(
  params: SamplingParams,
  config: DecoderConfig,
  tokenizer: () => Tokenizer,
): StopConditions {
  const { stop } = params;
  if (!stop) return { stopTokenIds: config.eosTokenIds };
  if (stop.strings.length === 0) return { stopTokenIds: stop.tokenIds };
  // After a complete text nothing sensible follows, so end-of-text stops beside the strings.
  return {
    stopTokenIds: [...stop.tokenIds, ...config.eosTokenIds],
    stopStrings: stop.strings,
    tokenizer: tokenizer(),
  };
}

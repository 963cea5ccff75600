import * as z from 'zod';
import { TensorData } from './tensor-data.ts';

/** `stop`: a stop token or string was drawn. `length`: `max_tokens` were drawn. */
export const StopReason = z.enum(['stop', 'length']).meta({ id: 'StopReason' });

export type StopReason = z.infer<typeof StopReason>;

/** Up to k pairs of token id and logprob, likeliest first. */
const TopkRow = z.array(z.tuple([z.int(), z.number()]));

const TopkRows = z.array(TopkRow.nullable());

/** One drawn sequence. */
export const SampledSequence = z
  .object({
    stop_reason: StopReason,
    /** Unique; names this sequence in later requests. */
    sequence_id: z.string().nullish(),
    /** The token that stopped the sequence is included. */
    tokens: z.array(z.int()),
    /** Of the model's own distribution, before temperature, top-k and top-p. */
    logprobs: z.array(z.number()).nullish(),
    topk_logprobs: TopkRows.nullish(),
  })
  .meta({ id: 'SampledSequence', description: 'One drawn sequence' });

export type SampledSequence = z.infer<typeof SampledSequence>;

/** Alternatives to the prompt's tokens, both tensors [prompt length - 1, k]. */
export const PromptAltTokens = z
  .object({ tokens: TensorData, logprobs: TensorData })
  .meta({ id: 'PromptAltTokens' });

export type PromptAltTokens = z.infer<typeof PromptAltTokens>;

/** Result of a sample. */
export const SampleResponse = z
  .object({
    sequences: z.array(SampledSequence),
    /** One per prompt token; `null` where not computed, always at 0. */
    prompt_logprobs: z.array(z.number().nullable()).nullish(),
    /** One row per prompt token; `null` where not computed. */
    topk_prompt_logprobs: TopkRows.nullish(),
    /** Layout of the request's tensor, 0.0 for skipped cells. */
    target_prompt_logprobs: TensorData.nullish(),
    prompt_alt_tokens: PromptAltTokens.nullish(),
    prompt_cache_hit_tokens: z.int().nonnegative().default(0),
    type: z.literal('sample').nullish(),
  })
  .meta({ id: 'SampleResponse', description: 'Result of a sample' });

export type SampleResponse = z.infer<typeof SampleResponse>;

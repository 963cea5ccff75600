import * as z from 'zod';
import { Uint64 } from './integers.ts';
import { ModelInput } from './model-input.ts';
import { SamplingParams } from './sampling-params.ts';
import { TensorData } from './tensor-data.ts';

/** Draws sequences that continue a prompt. */
export const SampleRequest = z
  .strictObject({
    num_samples: z.int().positive('num_samples must be at least 1').default(1),
    prompt: ModelInput,
    sampling_params: SamplingParams,
    /** Taken from the checkpoint when `model_path` is given. */
    base_model: z.string().min(1).nullish(),
    /** `tinker://…` or `logits://…` */
    model_path: z.string().min(1).nullish(),
    /** Instead of `base_model` and `model_path`; comes with `seq_id`. */
    sampling_session_id: z.string().min(1).nullish(),
    /** Counts a sampler's requests; request and sequence ids derive from it. */
    seq_id: Uint64.nullish(),
    /** Also score the prompt's tokens. Absent: false. */
    prompt_logprobs: z.boolean().nullish(),
    /** Also give the k likeliest tokens at each prompt position; 0: off. */
    topk_prompt_logprobs: z.int().nonnegative().default(0),
    /** Also give the k likeliest tokens at each sampled position; 0: off. */
    topk_sample_logprobs: z.int().nonnegative().default(0),
    /** Ids to score, int64 [prompt length - 1, K]: row i at prompt position i + 1, -1 skips a cell. */
    target_prompt_logprobs: TensorData.nullish(),
    /** Draw this many alternatives at each prompt position after the first; 0: off. */
    prompt_alt_tokens_k: z.int().nonnegative().default(0),
    /** Score only the last N prompt tokens; needs `prompt_logprobs`. */
    prompt_logprobs_last_n: z.int().positive().nullish(),
    /** Only `stable_reinforce` reads what this records. */
    record_stability_info: z.boolean().nullish(),
    type: z.literal('sample').default('sample'),
  })
  .check((payload) => {
    const { sampling_session_id: session, seq_id: seq, base_model, model_path } = payload.value;
    if (session && seq == null) {
      payload.issues.push({
        code: 'custom',
        path: ['seq_id'],
        message: 'required with sampling_session_id',
        input: payload.value,
      });
    }
    if (!session && !base_model && !model_path) {
      payload.issues.push({
        code: 'custom',
        message: 'give sampling_session_id, model_path or base_model',
        input: payload.value,
      });
    }
  })
  .meta({ id: 'SampleRequest', description: 'Draws sequences that continue a prompt' });

export type SampleRequest = z.infer<typeof SampleRequest>;

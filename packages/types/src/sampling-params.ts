import * as z from 'zod';
import { TokenId, Uint64 } from './integers.ts';

/** How tokens are drawn. */
export const SamplingParams = z
  .object({
    /** Absent: up to the context limit. */
    max_tokens: z.int().positive('max_tokens must be at least 1').nullish(),
    /** Repeats the same group of samples for the same request; absent means random. */
    seed: Uint64.nullish(),
    /**
     * Strings or token ids that end a sample. Absent: the model's end-of-text ids. `[]`: nothing ends it but
     * `max_tokens`, not even end-of-text.
     */
    stop: z.union([z.string(), z.array(TokenId), z.array(z.string())]).nullish(),
    /** 0 is greedy. */
    temperature: z.number().min(0, 'temperature must not be negative; 0 is greedy').default(1),
    /** Keep the k likeliest tokens; -1: no limit. */
    top_k: z
      .int()
      .min(-1, 'top_k must be -1 (no limit) or a positive integer')
      .refine((k) => k !== 0, 'top_k must be -1 (no limit) or a positive integer')
      .default(-1),
    /** Keep the smallest set of tokens whose probability reaches this. */
    top_p: z.number().gt(0, 'top_p must be in (0, 1]').max(1, 'top_p must be in (0, 1]').default(1),
  })
  .meta({ id: 'SamplingParams', description: 'How tokens are drawn' });

export type SamplingParams = z.infer<typeof SamplingParams>;

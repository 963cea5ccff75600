import * as z from 'zod';

const run = {
  /** `sequence_id` of a sampled sequence. */
  sequence_id: z.string().min(1),
  offset: z.int().nonnegative().default(0),
  length: z.int().nonnegative(),
};

/** A run of tokens that were the prompt of a sample. */
export const PromptProvenanceSpan = z
  .strictObject({ type: z.literal('prompt_tokens'), ...run })
  .meta({ id: 'PromptProvenanceSpan' });

export type PromptProvenanceSpan = z.infer<typeof PromptProvenanceSpan>;

/** A run of tokens that were sampled. */
export const SampledProvenanceSpan = z
  .strictObject({ type: z.literal('sampled_tokens'), ...run })
  .meta({ id: 'SampledProvenanceSpan' });

export type SampledProvenanceSpan = z.infer<typeof SampledProvenanceSpan>;

/** Where a run of a datum's positions came from. */
export const ProvenanceSpan = z
  .discriminatedUnion('type', [PromptProvenanceSpan, SampledProvenanceSpan])
  .meta({ id: 'ProvenanceSpan' });

export type ProvenanceSpan = z.infer<typeof ProvenanceSpan>;

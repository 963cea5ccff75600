import * as z from 'zod';
import { ModelId } from './ids.ts';
import { Counter } from './integers.ts';
import { OptimizerConfig } from './optimizer-config.ts';

const CheckpointName = z
  .string()
  .min(1, 'a checkpoint name must not be empty')
  .regex(/^[^/]*$/, 'a checkpoint name must not contain "/"');

/** Shortest and longest life of a checkpoint, in seconds: an hour, ten years. */
export const TTL_SECONDS_RANGE = { min: 3600, max: 315_360_000 } as const;

const TtlSeconds = z
  .int()
  .min(TTL_SECONDS_RANGE.min, 'ttl_seconds must be at least 3600 (one hour)')
  .max(TTL_SECONDS_RANGE.max, 'ttl_seconds must be at most 315360000 (ten years)');

const StringMetadata = z.record(z.string(), z.string());

/** Saves everything that a later resume needs. */
export const SaveWeightsRequest = z
  .strictObject({
    model_id: ModelId,
    /** The checkpoint's name. */
    path: CheckpointName.nullish(),
    seq_id: Counter.nullish(),
    /** Absent: kept for ever. */
    ttl_seconds: TtlSeconds.nullish(),
    /** Replace a checkpoint of this name. */
    overwrite: z.boolean().default(false),
    user_metadata: StringMetadata.nullish(),
    type: z.literal('save_weights').default('save_weights'),
  })
  .meta({ id: 'SaveWeightsRequest' });

export type SaveWeightsRequest = z.infer<typeof SaveWeightsRequest>;

export const SaveWeightsResponse = z
  .object({ path: z.string(), type: z.literal('save_weights').nullish() })
  .meta({ id: 'SaveWeightsResponse' });

export type SaveWeightsResponse = z.infer<typeof SaveWeightsResponse>;

/**
 * Loads a checkpoint: into a new model (`session_id` and `model_seq_id`) or into a live one (`model_id` and `seq_id`).
 */
export const LoadWeightsRequest = z
  .strictObject({
    model_id: ModelId.nullish(),
    seq_id: Counter.nullish(),
    session_id: z.string().min(1).nullish(),
    model_seq_id: Counter.nullish(),
    base_model: z.string().min(1).nullish(),
    user_metadata: z.record(z.string(), z.unknown()).nullish(),
    /** `tinker://…` or `logits://…` */
    path: z.string().min(1),
    /** Load the optimizer's state too. */
    optimizer: z.boolean(),
    optimizer_config: OptimizerConfig.nullish(),
    weights_access_token: z.string().nullish(),
    type: z.literal('load_weights').default('load_weights'),
  })
  .refine(
    ({ model_id, seq_id, session_id, model_seq_id }) =>
      model_id ? !session_id && seq_id != null : Boolean(session_id) && model_seq_id != null,
    { message: 'give model_id and seq_id, or session_id and model_seq_id' },
  )
  .meta({ id: 'LoadWeightsRequest' });

export type LoadWeightsRequest = z.infer<typeof LoadWeightsRequest>;

export const LoadWeightsResponse = z
  .object({
    path: z.string().nullish(),
    model_id: z.string().nullish(),
    type: z.literal('load_weights').nullish(),
  })
  .meta({ id: 'LoadWeightsResponse' });

export type LoadWeightsResponse = z.infer<typeof LoadWeightsResponse>;

/** `snapshot`: fixed weights. `inflight`: weights that follow the model's next inflight save. */
export const SamplingClientKind = z.enum(['snapshot', 'inflight']).meta({ id: 'SamplingClientKind' });

export type SamplingClientKind = z.infer<typeof SamplingClientKind>;

/** Saves the adapter: under a name (`path`), or as a sampler (`sampling_session_seq_id`). */
export const SaveWeightsForSamplerRequest = z
  .strictObject({
    model_id: ModelId,
    path: CheckpointName.nullish(),
    sampling_session_seq_id: Counter.nullish(),
    kind: SamplingClientKind.default('snapshot'),
    seq_id: Counter.nullish(),
    ttl_seconds: TtlSeconds.nullish(),
    user_metadata: StringMetadata.nullish(),
    type: z.literal('save_weights_for_sampler').default('save_weights_for_sampler'),
  })
  .meta({ id: 'SaveWeightsForSamplerRequest' });

export type SaveWeightsForSamplerRequest = z.infer<typeof SaveWeightsForSamplerRequest>;

/** What the wire carries: a path for a named save, a sampler for an unnamed one. */
export const SaveWeightsForSamplerResponseInternal = z
  .object({
    path: z.string().nullish(),
    sampling_session_id: z.string().nullish(),
    type: z.literal('save_weights_for_sampler').nullish(),
  })
  .meta({ id: 'SaveWeightsForSamplerResponseInternal' });

export type SaveWeightsForSamplerResponseInternal = z.infer<typeof SaveWeightsForSamplerResponseInternal>;

export const SaveWeightsForSamplerResponse = z
  .object({ path: z.string(), type: z.literal('save_weights_for_sampler').nullish() })
  .meta({ id: 'SaveWeightsForSamplerResponse' });

export type SaveWeightsForSamplerResponse = z.infer<typeof SaveWeightsForSamplerResponse>;

/** Exports the adapter as PEFT files for download. */
export const SaveWeightsExternalRequest = z
  .strictObject({
    model_id: ModelId,
    path: CheckpointName,
    seq_id: Counter.nullish(),
    ttl_seconds: TtlSeconds.nullish(),
    /** age recipients (`age1…` or SSH public keys) that each file is encrypted to. */
    age_encryption_recipients: z.array(z.string().min(1)).max(10).nullish(),
    type: z.literal('save_weights_external').default('save_weights_external'),
  })
  .meta({ id: 'SaveWeightsExternalRequest' });

export type SaveWeightsExternalRequest = z.infer<typeof SaveWeightsExternalRequest>;

/** What the wire carries. */
export const SaveWeightsExternalResponseInternal = z
  .object({
    path: z.string().nullish(),
    size_bytes: z.int().nonnegative().nullish(),
    type: z.literal('save_weights_external').nullish(),
  })
  .meta({ id: 'SaveWeightsExternalResponseInternal' });

export type SaveWeightsExternalResponseInternal = z.infer<typeof SaveWeightsExternalResponseInternal>;

export const SaveWeightsExternalResponse = z
  .object({ path: z.string(), type: z.literal('save_weights_external').nullish() })
  .meta({ id: 'SaveWeightsExternalResponse' });

export type SaveWeightsExternalResponse = z.infer<typeof SaveWeightsExternalResponse>;

/** `null` removes the expiry. */
export const SetCheckpointTtlRequest = z
  .strictObject({ ttl_seconds: TtlSeconds.nullable() })
  .meta({ id: 'SetCheckpointTtlRequest' });

export type SetCheckpointTtlRequest = z.infer<typeof SetCheckpointTtlRequest>;

export const WeightsInfoRequest = z
  .strictObject({ tinker_path: z.string().min(1) })
  .meta({ id: 'WeightsInfoRequest' });

export type WeightsInfoRequest = z.infer<typeof WeightsInfoRequest>;

/** The minimum needed to load a public checkpoint. */
export const WeightsInfoResponse = z
  .object({
    base_model: z.string(),
    optimizer_config: OptimizerConfig.default({ type: 'adamw' }),
    is_lora: z.boolean(),
    lora_rank: z.int().nullish(),
    train_unembed: z.boolean().nullish(),
    train_mlp: z.boolean().nullish(),
    train_attn: z.boolean().nullish(),
  })
  .meta({ id: 'WeightsInfoResponse' });

export type WeightsInfoResponse = z.infer<typeof WeightsInfoResponse>;

/** Copies a checkpoint to a project, or to a training run slot of a session. */
export const CopyWeightsRequest = z
  .strictObject({
    source_path: z.string().min(1),
    destination_project_id: z.string().nullish(),
    session_id: z.string().min(1).nullish(),
    model_seq_id: Counter.nullish(),
    ttl_seconds: TtlSeconds.nullish(),
    weights_access_token: z.string().nullish(),
  })
  .refine(({ session_id, model_seq_id }) => (session_id == null) === (model_seq_id == null), {
    message: 'session_id and model_seq_id come together',
  })
  .meta({ id: 'CopyWeightsRequest' });

export type CopyWeightsRequest = z.infer<typeof CopyWeightsRequest>;

export const CopyWeightsResponse = z.object({ tinker_path: z.string() }).meta({ id: 'CopyWeightsResponse' });

export type CopyWeightsResponse = z.infer<typeof CopyWeightsResponse>;

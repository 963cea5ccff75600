import * as z from 'zod';
import { Counter } from './integers.ts';

/** Opens a sampler on a base model or on a checkpoint. */
export const CreateSamplingSessionRequest = z
  .strictObject({
    session_id: z.string().min(1),
    sampling_session_seq_id: Counter,
    /** Taken from the checkpoint when `model_path` is given; required without it. */
    base_model: z.string().min(1).nullish(),
    /** `tinker://…` or `logits://…` */
    model_path: z.string().min(1).nullish(),
    type: z.literal('create_sampling_session').default('create_sampling_session'),
  })
  .refine((request) => request.base_model || request.model_path, {
    message: 'give base_model or model_path',
  })
  .meta({ id: 'CreateSamplingSessionRequest' });

export type CreateSamplingSessionRequest = z.infer<typeof CreateSamplingSessionRequest>;

export const CreateSamplingSessionResponse = z
  .object({
    type: z.literal('create_sampling_session').default('create_sampling_session'),
    sampling_session_id: z.string().min(1),
  })
  .meta({ id: 'CreateSamplingSessionResponse' });

export type CreateSamplingSessionResponse = z.infer<typeof CreateSamplingSessionResponse>;

export const GetSamplerResponse = z
  .object({
    sampler_id: z.string(),
    base_model: z.string(),
    model_path: z.string().nullish(),
  })
  .meta({ id: 'GetSamplerResponse' });

export type GetSamplerResponse = z.infer<typeof GetSamplerResponse>;

export const JoinSamplingSessionRequest = z
  .strictObject({
    sampling_session_id: z.string().min(1),
    type: z.literal('join_sampling_session').default('join_sampling_session'),
  })
  .meta({ id: 'JoinSamplingSessionRequest' });

export type JoinSamplingSessionRequest = z.infer<typeof JoinSamplingSessionRequest>;

export const JoinSamplingSessionResponse = z
  .object({
    type: z.literal('join_sampling_session').default('join_sampling_session'),
    /** Unique among the sampler's clients; the original one is 0. */
    client_counter: z.int().min(1),
  })
  .meta({ id: 'JoinSamplingSessionResponse' });

export type JoinSamplingSessionResponse = z.infer<typeof JoinSamplingSessionResponse>;

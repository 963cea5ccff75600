import * as z from 'zod';
import { Timestamp } from './timestamp.ts';

/** What was used, and how much of it. */
export const BillingEventInfo = z
  .discriminatedUnion('type', [
    z.object({ type: z.literal('training'), token_count: z.int() }),
    z.object({ type: z.literal('sampling_prefill'), cached: z.boolean(), token_count: z.int() }),
    z.object({ type: z.literal('sampling_sample'), token_count: z.int() }),
    z.object({ type: z.literal('checkpoint'), count: z.int() }),
    z.object({ type: z.literal('storage'), free: z.boolean().default(false), gigabyte_hours: z.number() }),
  ])
  .meta({ id: 'BillingEventInfo' });

export type BillingEventInfo = z.infer<typeof BillingEventInfo>;

/** One hour of one kind of use. */
export const BillingUsageEvent = z
  .object({
    bucket_start: Timestamp,
    bucket_end: Timestamp,
    base_model: z.string().nullish(),
    user_id: z.string().nullish(),
    user_name: z.string().nullish(),
    session_id: z.string().nullish(),
    project_id: z.string().nullish(),
    estimated_cost_usd: z.number().nullish(),
    effective_rate_usd_per_million_tokens: z.number().nullish(),
    effective_rate_usd_per_gigabyte_month: z.number().nullish(),
    event_info: BillingEventInfo,
  })
  .meta({ id: 'BillingUsageEvent' });

export type BillingUsageEvent = z.infer<typeof BillingUsageEvent>;

export const BillingUsageResponse = z
  .object({
    data: z.array(BillingUsageEvent),
    sessions: z
      .record(z.string(), z.object({ user_metadata: z.record(z.string(), z.string()).nullish() }))
      .default({}),
    cost_data_through: Timestamp.nullish(),
  })
  .meta({ id: 'BillingUsageResponse' });

export type BillingUsageResponse = z.infer<typeof BillingUsageResponse>;

export const CurrentCheckpointStorageUsageItem = z
  .object({
    project_id: z.string().nullish(),
    org_user_urn: z.string().nullish(),
    user_email: z.string().nullish(),
    user_name: z.string().nullish(),
    checkpoint_count: z.int(),
    size_bytes: z.int(),
    size_gigabytes: z.number(),
    estimated_monthly_cost_usd: z.number().nullish(),
  })
  .meta({ id: 'CurrentCheckpointStorageUsageItem' });

export type CurrentCheckpointStorageUsageItem = z.infer<typeof CurrentCheckpointStorageUsageItem>;

export const CurrentCheckpointStorageUsageResponse = z
  .object({
    effective_rate_usd_per_gigabyte_month: z.number().nullish(),
    data: z.array(CurrentCheckpointStorageUsageItem),
  })
  .meta({ id: 'CurrentCheckpointStorageUsageResponse' });

export type CurrentCheckpointStorageUsageResponse = z.infer<typeof CurrentCheckpointStorageUsageResponse>;

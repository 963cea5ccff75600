import * as z from 'zod';
import { ModelId, RequestId } from './ids.ts';
import { Uint64 } from './integers.ts';

/** What a submission answers: the result is fetched by `request_id`. */
export const UntypedApiFuture = z
  .object({
    request_id: RequestId,
    model_id: ModelId.nullish(),
    /** Of a sample: the `sequence_id` of each sequence to come. */
    sample_sequence_ids: z.array(z.string()).nullish(),
  })
  .meta({ id: 'UntypedApiFuture' });

export type UntypedApiFuture = z.infer<typeof UntypedApiFuture>;

export const FutureRetrieveRequest = z
  .strictObject({
    request_id: RequestId,
    /** Let the server answer with the size of a large result instead of the result. */
    allow_metadata_only: z.boolean().default(false),
  })
  .meta({ id: 'FutureRetrieveRequest' });

export type FutureRetrieveRequest = z.infer<typeof FutureRetrieveRequest>;

export const QueueState = z.enum(['active', 'paused_capacity', 'paused_rate_limit']);

export type QueueState = z.infer<typeof QueueState>;

/** The result is not there yet. */
export const TryAgainResponse = z
  .object({
    type: z.literal('try_again').default('try_again'),
    request_id: RequestId,
    queue_state: QueueState.default('active'),
    queue_state_reason: z.string().nullish(),
  })
  .meta({ id: 'TryAgainResponse' });

export type TryAgainResponse = z.infer<typeof TryAgainResponse>;

/** A large result is there; ask again without `allow_metadata_only`. */
export const CompleteMetadataResponse = z
  .object({
    status: z.literal('complete_metadata'),
    response_payload_size: z.int().nonnegative(),
  })
  .meta({ id: 'CompleteMetadataResponse' });

export type CompleteMetadataResponse = z.infer<typeof CompleteMetadataResponse>;

/** Whose mistake a failed request is. */
export const RequestErrorCategory = z
  .enum(['unknown', 'server', 'user'])
  .meta({ id: 'RequestErrorCategory' });

export type RequestErrorCategory = z.infer<typeof RequestErrorCategory>;

/** The request failed. A category we do not know reads as `unknown`. */
export const RequestFailedResponse = z
  .object({ error: z.string(), category: RequestErrorCategory.catch('unknown') })
  .meta({ id: 'RequestFailedResponse' });

export type RequestFailedResponse = z.infer<typeof RequestFailedResponse>;

export const CancelFutureRequest = z
  .strictObject({ request_id: RequestId })
  .meta({ id: 'CancelFutureRequest' });

export type CancelFutureRequest = z.infer<typeof CancelFutureRequest>;

/** One sampling client's requests; clones of it count from `cloned_sampler_id * 10^9`. */
export const SamplingSessionFuturesTarget = z
  .strictObject({
    type: z.literal('sampling_session').default('sampling_session'),
    sampling_session_id: z.string().min(1),
    cloned_sampler_id: Uint64.default(0n),
  })
  .meta({ id: 'SamplingSessionFuturesTarget' });

export type SamplingSessionFuturesTarget = z.infer<typeof SamplingSessionFuturesTarget>;

export const FuturesRetrieveRequest = z
  .strictObject({
    target: SamplingSessionFuturesTarget,
    /** Of the last answer; completions up to it count as seen. */
    prev_cursor: z.int().nonnegative().default(0),
    /** Seconds to wait for news; absent: the server's choice. */
    timeout: z.number().nonnegative().nullish(),
    /** Results that the server may delete. */
    retrieved_request_ids: z.array(z.string()).default([]),
  })
  .meta({ id: 'FuturesRetrieveRequest' });

export type FuturesRetrieveRequest = z.infer<typeof FuturesRetrieveRequest>;

export const FutureFinished = z
  .object({
    state: z.literal('finished'),
    request_id: RequestId,
    response_payload_uncompressed_size: z.int().nonnegative().nullish(),
  })
  .meta({ id: 'FutureFinished' });

export type FutureFinished = z.infer<typeof FutureFinished>;

export const FutureFailed = z
  .object({ state: z.literal('failed'), request_id: RequestId })
  .meta({ id: 'FutureFailed' });

export type FutureFailed = z.infer<typeof FutureFailed>;

export const FutureCompletion = z
  .discriminatedUnion('state', [FutureFinished, FutureFailed])
  .meta({ id: 'FutureCompletion' });

export type FutureCompletion = z.infer<typeof FutureCompletion>;

export const FuturesRetrieveResponse = z
  .object({ completions: z.array(FutureCompletion), cursor: z.int().nonnegative() })
  .meta({ id: 'FuturesRetrieveResponse' });

export type FuturesRetrieveResponse = z.infer<typeof FuturesRetrieveResponse>;

import * as z from 'zod';

export const ClientConfigRequest = z
  .strictObject({ sdk_version: z.string() })
  .meta({ id: 'ClientConfigRequest' });

export type ClientConfigRequest = z.infer<typeof ClientConfigRequest>;

/** Settings that a server gives a client once, when it is made. */
export const ClientConfigResponse = z
  .object({
    pjwt_auth_enabled: z.boolean().default(false),
    credential_default_source: z.string().default('api_key'),
    /** Bytes of prompts that may be under way to the server at once; a token counts as 10. */
    sample_dispatch_bytes_semaphore_size: z
      .int()
      .positive()
      .default(10 * 1024 * 1024),
    /** Bytes of announced results that may be fetched at once. */
    inflight_response_bytes_semaphore_size: z
      .int()
      .positive()
      .default(50 * 1024 * 1024),
    /** Post all chunks of a split batch at once, the first one last. */
    parallel_fwdbwd_chunks: z.boolean().default(true),
    /** Compress forward_backward bodies with zstd. */
    proto_compress_fwdbwd: z.boolean().default(false),
    /** Datums per request. */
    fwdbwd_max_chunk_len: z.int().positive().default(1024),
    /** Estimated bytes per request; one larger datum still goes alone. */
    fwdbwd_max_chunk_bytes_count: z.int().positive().default(5_000_000),
    /** Estimated bytes of training requests that may be under way at once. */
    fwdbwd_dispatch_bytes_semaphore_size: z.int().positive().default(50_000_000),
    /** How long a 402 is waited out, in seconds. */
    billing_exception_max_pause_duration_sec: z.int().nonnegative().default(3600),
    sample_no_retries: z.boolean().default(false),
    sample_enable_stuck_detection: z.boolean().default(true),
    /** Samples in flight per sampling client. */
    sample_max_concurrent_requests: z.int().positive().default(2000),
    use_pyqwest_transport: z.boolean().default(true),
    /** One poll per sampling session instead of one per sample. */
    sample_use_retrieve_futures: z.boolean().default(false),
    custom_loss_server_side: z.boolean().default(false),
    /** Ask for the number of a cloned sampling client instead of drawing it. */
    sample_join_sampling_session: z.boolean().default(false),
  })
  .meta({ id: 'ClientConfigResponse' });

export type ClientConfigResponse = z.infer<typeof ClientConfigResponse>;

/** Settings that a client fetches again and again. */
export const ClientDynamicConfigResponse = z
  .object({
    refresh_interval_sec: z.number().positive().default(300),
    /** Tell the server about samples that nobody waits for any more. */
    sample_cancel_enabled: z.boolean().default(false),
    sample_cancel_max_batch_size: z.int().positive().default(64),
  })
  .meta({ id: 'ClientDynamicConfigResponse' });

export type ClientDynamicConfigResponse = z.infer<typeof ClientDynamicConfigResponse>;

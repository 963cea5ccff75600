import * as z from 'zod';
import { SessionFinishReasonType } from './session.ts';

const SessionFailedReason = z.discriminatedUnion('type', [
  z.object({ type: z.literal('request'), request_id: z.string(), request_type: z.string() }),
  z.object({ type: z.literal('training_run'), training_run_id: z.string() }),
  z.object({ type: z.literal('sampling_session'), sampling_session_id: z.string() }),
]);

/** How a session ended, or that it runs. */
export const SessionStatus = z
  .discriminatedUnion('type', [
    z.object({ type: z.literal('active') }),
    z.object({ type: z.literal('cancelled'), detail: z.string().nullish() }),
    z.object({
      type: z.literal('client_finished'),
      reason: z.object({ type: SessionFinishReasonType }),
      detail: z.string().nullish(),
    }),
    z.object({
      type: z.literal('failed'),
      category: z.enum(['user', 'internal']),
      reason: SessionFailedReason,
      message: z.string(),
    }),
  ])
  .meta({ id: 'SessionStatus' });

export type SessionStatus = z.infer<typeof SessionStatus>;

/** A status to search for. */
export const SessionStatusQuery = z
  .discriminatedUnion('type', [
    z.strictObject({ type: z.literal('active') }),
    z.strictObject({ type: z.literal('cancelled') }),
    z.strictObject({ type: z.literal('failed') }),
    z.strictObject({
      type: z.literal('client_finished'),
      reasons: z.array(SessionFinishReasonType).min(1).nullish(),
    }),
  ])
  .meta({ id: 'SessionStatusQuery' });

export type SessionStatusQuery = z.infer<typeof SessionStatusQuery>;

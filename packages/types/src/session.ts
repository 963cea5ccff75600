import * as z from 'zod';
import { ModelId } from './ids.ts';

export const CreateSessionRequest = z
  .strictObject({
    tags: z.array(z.string()).default([]),
    user_metadata: z.record(z.string(), z.unknown()).nullish(),
    sdk_version: z.string(),
    project_id: z.string().nullish(),
    /** Shown and searched, need not be unique. */
    display_name: z.string().nullish(),
    type: z.literal('create_session').default('create_session'),
  })
  .meta({ id: 'CreateSessionRequest' });

export type CreateSessionRequest = z.infer<typeof CreateSessionRequest>;

export const CreateSessionResponse = z
  .object({
    type: z.literal('create_session').default('create_session'),
    /** Logged by the client at this level, like the next two. */
    info_message: z.string().nullish(),
    warning_message: z.string().nullish(),
    error_message: z.string().nullish(),
    session_id: z.string().min(1),
  })
  .meta({ id: 'CreateSessionResponse' });

export type CreateSessionResponse = z.infer<typeof CreateSessionResponse>;

export const SessionHeartbeatRequest = z
  .strictObject({
    session_id: z.string().min(1),
    type: z.literal('session_heartbeat').default('session_heartbeat'),
  })
  .meta({ id: 'SessionHeartbeatRequest' });

export type SessionHeartbeatRequest = z.infer<typeof SessionHeartbeatRequest>;

export const SessionHeartbeatResponse = z
  .object({ type: z.literal('session_heartbeat').default('session_heartbeat') })
  .meta({ id: 'SessionHeartbeatResponse' });

export type SessionHeartbeatResponse = z.infer<typeof SessionHeartbeatResponse>;

/** How a client says it ended. */
export const SessionFinishReasonType = z.enum(['success', 'errored', 'interrupted']);

export type SessionFinishReasonType = z.infer<typeof SessionFinishReasonType>;

export const FinishSessionRequest = z
  .strictObject({
    reason: z.strictObject({ type: SessionFinishReasonType }),
    detail: z.string().nullish(),
  })
  .meta({ id: 'FinishSessionRequest' });

export type FinishSessionRequest = z.infer<typeof FinishSessionRequest>;

export const GetSessionResponse = z
  .object({
    training_run_ids: z.array(ModelId),
    sampler_ids: z.array(z.string()),
    user_metadata: z.record(z.string(), z.string()).nullish(),
    display_name: z.string().nullish(),
  })
  .meta({ id: 'GetSessionResponse' });

export type GetSessionResponse = z.infer<typeof GetSessionResponse>;

export const ListSessionsResponse = z
  .object({ sessions: z.array(z.string()) })
  .meta({ id: 'ListSessionsResponse' });

export type ListSessionsResponse = z.infer<typeof ListSessionsResponse>;

export const MoveSessionRequest = z
  .strictObject({ project_id: z.string().min(1) })
  .meta({ id: 'MoveSessionRequest' });

export type MoveSessionRequest = z.infer<typeof MoveSessionRequest>;

export const TraceExportResponse = z
  .object({
    status: z.enum(['pending', 'ready', 'failed']),
    url: z.string().nullish(),
    error: z.string().nullish(),
  })
  .meta({ id: 'TraceExportResponse' });

export type TraceExportResponse = z.infer<typeof TraceExportResponse>;

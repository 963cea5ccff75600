import * as z from 'zod';
import { SessionStatus, SessionStatusQuery } from './session-status.ts';
import { Timestamp } from './timestamp.ts';

/** Where the next page starts; hand it back unchanged. */
export const SessionSearchCursor = z
  .object({ last_created_at: Timestamp, last_session_id: z.string() })
  .meta({ id: 'SessionSearchCursor' });

export type SessionSearchCursor = z.infer<typeof SessionSearchCursor>;

/** Whose sessions to search. */
export const SearchOwner = z
  .discriminatedUnion('type', [
    z.strictObject({ type: z.literal('own') }),
    z.strictObject({ type: z.literal('accessible') }),
    z.strictObject({ type: z.literal('user'), owner_urns: z.array(z.string()).min(1).max(10) }),
  ])
  .meta({ id: 'SearchOwner' });

export type SearchOwner = z.infer<typeof SearchOwner>;

export const SessionSearchRequest = z
  .strictObject({
    /** With `display_name`, a session that matches either one matches. */
    session_id: z.string().nullish(),
    project_ids: z.array(z.string()).nullish(),
    /** Every pair must hold. */
    user_metadata: z.record(z.string(), z.string()).default({}),
    /** Words, each of which must appear somewhere in the name, in any case. */
    display_name: z.string().min(1).nullish(),
    owner: SearchOwner.default({ type: 'own' }),
    statuses: z.array(SessionStatusQuery).min(1).nullish(),
    limit: z.int().min(1).max(200).default(50),
    cursor: SessionSearchCursor.nullish(),
  })
  .meta({ id: 'SessionSearchRequest' });

export type SessionSearchRequest = z.infer<typeof SessionSearchRequest>;

export const SessionSummary = z
  .object({
    session_id: z.string(),
    created_at: Timestamp,
    owner: z.string(),
    project_id: z.string(),
    /** Absent when the session neither ended nor is known to run. */
    status: SessionStatus.nullish(),
    checkpoints_count: z.int().nonnegative(),
    display_name: z.string().nullish(),
    user_metadata: z.record(z.string(), z.string()).nullish(),
    checkpoint_storage_bytes: z.int().nonnegative().nullish(),
  })
  .meta({ id: 'SessionSummary' });

export type SessionSummary = z.infer<typeof SessionSummary>;

/** One page, newest first. */
export const SessionSearchResponse = z
  .object({ sessions: z.array(SessionSummary), next_cursor: SessionSearchCursor.nullish() })
  .meta({ id: 'SessionSearchResponse' });

export type SessionSearchResponse = z.infer<typeof SessionSearchResponse>;

import * as z from 'zod';
import { Timestamp } from '../timestamp.ts';
import { Severity } from './severity.ts';

export const EventType = z
  .enum(['SESSION_START', 'SESSION_END', 'UNHANDLED_EXCEPTION', 'GENERIC_EVENT'])
  .meta({ id: 'EventType' });

export type EventType = z.infer<typeof EventType>;

const common = {
  event_id: z.string(),
  event_session_index: z.int().nonnegative(),
  severity: Severity,
  timestamp: Timestamp,
};

export const SessionStartEvent = z
  .object({ event: z.literal('SESSION_START'), ...common })
  .meta({ id: 'SessionStartEvent' });

export type SessionStartEvent = z.infer<typeof SessionStartEvent>;

export const SessionEndEvent = z
  .object({
    event: z.literal('SESSION_END'),
    ...common,
    /** ISO 8601 duration, or Python's `h:mm:ss` of older SDKs. */
    duration: z.string(),
  })
  .meta({ id: 'SessionEndEvent' });

export type SessionEndEvent = z.infer<typeof SessionEndEvent>;

export const UnhandledExceptionEvent = z
  .object({
    event: z.literal('UNHANDLED_EXCEPTION'),
    ...common,
    error_message: z.string(),
    error_type: z.string(),
    traceback: z.string().nullish(),
  })
  .meta({ id: 'UnhandledExceptionEvent' });

export type UnhandledExceptionEvent = z.infer<typeof UnhandledExceptionEvent>;

export const GenericEvent = z
  .object({
    event: z.literal('GENERIC_EVENT'),
    ...common,
    /** One of few names. */
    event_name: z.string(),
    event_data: z.record(z.string(), z.unknown()).default({}),
  })
  .meta({ id: 'GenericEvent' });

export type GenericEvent = z.infer<typeof GenericEvent>;

export const TelemetryEvent = z
  .discriminatedUnion('event', [SessionStartEvent, SessionEndEvent, UnhandledExceptionEvent, GenericEvent])
  .meta({ id: 'TelemetryEvent' });

export type TelemetryEvent = z.infer<typeof TelemetryEvent>;

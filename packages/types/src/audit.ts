import * as z from 'zod';
import { Timestamp } from './timestamp.ts';

export const AuditLogEntry = z
  .object({
    timestamp: Timestamp,
    /** `<resource>_<action>`, for example `checkpoint_read`. */
    event: z.string(),
    event_details: z.record(z.string(), z.unknown()).default({}),
    model_id: z.string().nullish(),
    tinker_path: z.string().nullish(),
    purpose: z.string().nullish(),
  })
  .meta({ id: 'AuditLogEntry' });

export type AuditLogEntry = z.infer<typeof AuditLogEntry>;

export const AuditLogResponse = z
  .object({ entries: z.array(AuditLogEntry) })
  .meta({ id: 'AuditLogResponse' });

export type AuditLogResponse = z.infer<typeof AuditLogResponse>;

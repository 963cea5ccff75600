import * as z from 'zod';
import { TelemetryEvent } from './events.ts';

const batch = {
  events: z.array(TelemetryEvent),
  /** Name of the host's platform. */
  platform: z.string(),
  sdk_version: z.string(),
  session_id: z.string(),
  /** Shared by all sessions of one process. SDKs before 0.25 do not send it. */
  process_uuid: z.string().nullish(),
};

export const TelemetryBatch = z.object(batch).meta({ id: 'TelemetryBatch' });

export type TelemetryBatch = z.infer<typeof TelemetryBatch>;

export const TelemetrySendRequest = z.strictObject(batch).meta({ id: 'TelemetrySendRequest' });

export type TelemetrySendRequest = z.infer<typeof TelemetrySendRequest>;

export const TelemetryResponse = z
  .object({ status: z.literal('accepted') })
  .meta({ id: 'TelemetryResponse' });

export type TelemetryResponse = z.infer<typeof TelemetryResponse>;

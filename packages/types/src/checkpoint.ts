import * as z from 'zod';
import { Cursor } from './cursor.ts';
import { Timestamp } from './timestamp.ts';

export const CheckpointType = z.enum(['training', 'sampler', 'external']).meta({ id: 'CheckpointType' });

export type CheckpointType = z.infer<typeof CheckpointType>;

/** Saved weights of a training run. */
export const Checkpoint = z
  .object({
    /** Kind and name, for example `weights/step-100`. */
    checkpoint_id: z.string(),
    checkpoint_type: CheckpointType,
    /** When it was saved. */
    time: Timestamp,
    tinker_path: z.string(),
    size_bytes: z.int().nonnegative().nullish(),
    /** Whether others may read it. */
    public: z.boolean().default(false),
    user_metadata: z.record(z.string(), z.string()).nullish(),
    /** Absent: never. */
    expires_at: Timestamp.nullish(),
  })
  .meta({ id: 'Checkpoint', description: 'Saved weights of a training run' });

export type Checkpoint = z.infer<typeof Checkpoint>;

export const CheckpointsListResponse = z
  .object({
    checkpoints: z.array(Checkpoint),
    /** Absent when the list is whole. */
    cursor: Cursor.nullish(),
  })
  .meta({ id: 'CheckpointsListResponse' });

export type CheckpointsListResponse = z.infer<typeof CheckpointsListResponse>;

/** Where to download a checkpoint as a tar file; no API key is needed there. */
export const CheckpointArchiveUrlResponse = z
  .object({ url: z.string(), expires: Timestamp.nullish() })
  .meta({ id: 'CheckpointArchiveUrlResponse' });

export type CheckpointArchiveUrlResponse = z.infer<typeof CheckpointArchiveUrlResponse>;

/** Where to download an exported checkpoint file by file; no API key is needed there. */
export const ExternalWeightsUrlsResponse = z
  .object({
    /** By the file's path inside the checkpoint. */
    urls: z.record(z.string(), z.string()),
    expires: Timestamp,
  })
  .meta({ id: 'ExternalWeightsUrlsResponse' });

export type ExternalWeightsUrlsResponse = z.infer<typeof ExternalWeightsUrlsResponse>;

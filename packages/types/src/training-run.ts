import * as z from 'zod';
import { Checkpoint } from './checkpoint.ts';
import { Cursor } from './cursor.ts';
import { Timestamp } from './timestamp.ts';

/** A model that was or is being trained. */
export const TrainingRun = z
  .object({
    training_run_id: z.string(),
    base_model: z.string(),
    model_owner: z.string(),
    is_lora: z.boolean(),
    /** A checkpoint of it is damaged. */
    corrupted: z.boolean().default(false),
    lora_rank: z.int().nullish(),
    last_request_time: Timestamp,
    last_checkpoint: Checkpoint.nullish(),
    last_sampler_checkpoint: Checkpoint.nullish(),
    user_metadata: z.record(z.string(), z.string()).nullish(),
  })
  .meta({ id: 'TrainingRun', description: 'A model that was or is being trained' });

export type TrainingRun = z.infer<typeof TrainingRun>;

export const TrainingRunsResponse = z
  .object({ training_runs: z.array(TrainingRun), cursor: Cursor })
  .meta({ id: 'TrainingRunsResponse' });

export type TrainingRunsResponse = z.infer<typeof TrainingRunsResponse>;

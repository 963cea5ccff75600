/** What the web console asks the server: not a part of the Tinker API. Times are milliseconds since 1970. */
import * as z from 'zod';
import { Checkpoint } from './checkpoint.ts';

const count = z.int().min(0);
const time = z.int();

/** Key and server, as the console greets. */
export const ConsoleAccount = z
  .object({
    owner: z.string(),
    key_id: z.string(),
    version: z.string(),
    /** Sampled texts are recorded. */
    records_rollouts: z.boolean(),
  })
  .meta({ id: 'ConsoleAccount' });

export type ConsoleAccount = z.infer<typeof ConsoleAccount>;

/** The last minutes, at even distances; arrays of one length. */
export const ConsoleHistory = z
  .object({
    at: z.array(time),
    trained_tokens_per_second: z.array(z.number()),
    sampled_tokens_per_second: z.array(z.number()),
    memory_bytes: z.array(count),
  })
  .meta({ id: 'ConsoleHistory' });

export type ConsoleHistory = z.infer<typeof ConsoleHistory>;

/** The state of the server; it tells nothing of what others do but how busy they keep it. */
export const ConsoleOverview = z
  .object({
    at: time,
    started_at: time,
    device: z.object({
      backend: z.string(),
      name: z.string(),
      precision: z.string(),
      cpus: count,
      /** Of the server's process. */
      memory_bytes: count,
      /** Of the machine. */
      total_memory_bytes: count,
    }),
    base_models: z.array(
      z.object({
        name: z.string(),
        architecture: z.string(),
        context_length: count,
        layers: count,
        /** Whether its weights are in memory. */
        state: z.enum(['unloaded', 'loading', 'loaded']),
        /** Memory that its weights take when they are loaded. */
        weight_bytes: count,
      }),
    ),
    /** Memory of the base weights that are loaded. */
    base_weight_bytes: count,
    base_loads: count,
    base_unloads: count,
    queue: z.object({
      training_calls: count,
      active_sequences: count,
      waiting_sequences: count,
    }),
    /** What keys and values take: of running sequences, and of earlier prompts that are kept. */
    kv_cache: z.object({
      bytes: count,
      limit_bytes: count,
      /** Positions of running sequences. */
      tokens: count,
      prefix_bytes: count,
      prefix_limit_bytes: count,
    }),
    models_in_memory: count,
    samplers_in_memory: count,
    trained_tokens_per_second: z.number(),
    sampled_tokens_per_second: z.number(),
    trained_tokens: count,
    sampled_tokens: count,
  })
  .meta({ id: 'ConsoleOverview' });

export type ConsoleOverview = z.infer<typeof ConsoleOverview>;

export const ConsoleSession = z
  .object({
    session_id: z.string(),
    display_name: z.string().nullable(),
    sdk_version: z.string(),
    tags: z.array(z.string()),
    /** `silent`: no sign of life for a while. */
    state: z.enum(['active', 'silent', 'finished']),
    created_at: time,
    last_heartbeat_at: time,
    runs: count,
  })
  .meta({ id: 'ConsoleSession' });

export type ConsoleSession = z.infer<typeof ConsoleSession>;

export const ConsoleSessions = z
  .object({ sessions: z.array(ConsoleSession) })
  .meta({ id: 'ConsoleSessions' });

export type ConsoleSessions = z.infer<typeof ConsoleSessions>;

export const ConsoleRun = z
  .object({
    run_id: z.string(),
    session_id: z.string(),
    session_name: z.string().nullable(),
    base_model: z.string(),
    /** `training`: asked for something in the last minute; `ended`: takes no more requests. */
    state: z.enum(['training', 'idle', 'ended']),
    corrupted: z.boolean(),
    lora: z.object({
      rank: count,
      alpha: z.number(),
      /** Decimal: it has 64 bits. */
      seed: z.string().nullable(),
      train_attn: z.boolean(),
      train_mlp: z.boolean(),
      train_unembed: z.boolean(),
    }),
    created_at: time,
    last_request_at: time,
    /** Optimizer steps that were recorded; null when there is none. */
    step: count.nullable(),
    /** Metrics of the latest step. */
    latest: z.record(z.string(), z.number()),
    user_metadata: z.record(z.string(), z.string()).nullable(),
  })
  .meta({ id: 'ConsoleRun' });

export type ConsoleRun = z.infer<typeof ConsoleRun>;

export const ConsoleRuns = z.object({ runs: z.array(ConsoleRun), total: count }).meta({ id: 'ConsoleRuns' });

export type ConsoleRuns = z.infer<typeof ConsoleRuns>;

export const ConsoleRunDetail = z
  .object({
    run: ConsoleRun,
    /** What the latest step was computed with, by name. */
    settings: z.record(z.string(), z.union([z.string(), z.number()])),
    checkpoints: z.array(Checkpoint),
  })
  .meta({ id: 'ConsoleRunDetail' });

export type ConsoleRunDetail = z.infer<typeof ConsoleRunDetail>;

/** Steps of a run; arrays of one length, null where a step lacks a metric. */
export const ConsoleMetrics = z
  .object({
    run_id: z.string(),
    steps: z.array(count),
    at: z.array(time),
    series: z.record(z.string(), z.array(z.number().nullable())),
  })
  .meta({ id: 'ConsoleMetrics' });

export type ConsoleMetrics = z.infer<typeof ConsoleMetrics>;

/** A request of a run. */
export const ConsoleCall = z
  .object({
    request_id: z.string(),
    /** Its place in the order of the run's requests, decimal; null without one. */
    seq: z.string().nullable(),
    /** As on the wire: `forward_backward`, `optim_step`, `save_weights`, ... */
    kind: z.string(),
    state: z.enum(['pending', 'done', 'failed']),
    submitted_at: time,
    /** When its work was handed to the engine; null while it waits for its turn, and where it never was. */
    started_at: time.nullable(),
    ended_at: time.nullable(),
    tokens: count.nullable(),
    sequences: count.nullable(),
    loss_fn: z.string().nullable(),
    metrics: z.record(z.string(), z.number()),
    error: z.string().nullable(),
  })
  .meta({ id: 'ConsoleCall' });

export type ConsoleCall = z.infer<typeof ConsoleCall>;

/** Requests of a run that are remembered, in the order in which they ended. */
export const ConsoleCalls = z
  .object({
    calls: z.array(ConsoleCall),
    /** Those that have not ended, oldest first. */
    pending: z.array(ConsoleCall),
    /** To be given as `after`, to get what ended later. */
    cursor: count,
    /** There may be more after the cursor. */
    more: z.boolean(),
    /** The run takes no more requests. */
    run_ended: z.boolean(),
  })
  .meta({ id: 'ConsoleCalls' });

export type ConsoleCalls = z.infer<typeof ConsoleCalls>;

/** Sessions whose samples were recorded, the most recent first. */
export const ConsoleRolloutSessions = z
  .object({
    sessions: z.array(
      z.object({
        session_id: z.string(),
        display_name: z.string().nullable(),
        rollouts: count,
        latest_at: time,
      }),
    ),
  })
  .meta({ id: 'ConsoleRolloutSessions' });

export type ConsoleRolloutSessions = z.infer<typeof ConsoleRolloutSessions>;

const rollout = {
  rollout_id: z.string(),
  session_id: z.string(),
  base_model: z.string(),
  model_path: z.string().nullable(),
  sampler_id: z.string(),
  at: time,
  prompt_tokens: count,
  temperature: z.number(),
  top_p: z.number(),
  top_k: z.int(),
  max_tokens: z.int().nullable(),
};

const drawn = {
  /** Number of tokens that were drawn, recorded or not. */
  tokens: count,
  mean_logprob: z.number().nullable(),
  stop_reason: z.enum(['stop', 'length']),
  /** Mean advantage of its tokens, once a training pass used the text. */
  advantage: z.number().nullable(),
};

/** A sampling request as a list shows it: the end of the prompt, and how each text begins. */
export const ConsoleRollout = z
  .object({
    ...rollout,
    prompt_preview: z.string(),
    texts: z.array(z.object({ ...drawn, preview: z.string() })),
  })
  .meta({ id: 'ConsoleRollout' });

export type ConsoleRollout = z.infer<typeof ConsoleRollout>;

export const ConsoleRollouts = z
  .object({ rollouts: z.array(ConsoleRollout) })
  .meta({ id: 'ConsoleRollouts' });

export type ConsoleRollouts = z.infer<typeof ConsoleRollouts>;

/** A sampling request with its texts, token by token. */
export const ConsoleRolloutDetail = z
  .object({
    ...rollout,
    prompt: z.string(),
    /** The prompt was longer; its end is here. */
    prompt_cut: z.boolean(),
    texts: z.array(
      z.object({
        ...drawn,
        /** Text and log-probability of each token; a token that ends inside a character has no text of its own. */
        pieces: z.array(z.object({ text: z.string(), logprob: z.number() })),
        cut: z.boolean(),
      }),
    ),
    /** Texts that were drawn but not recorded. */
    more_texts: count,
  })
  .meta({ id: 'ConsoleRolloutDetail' });

export type ConsoleRolloutDetail = z.infer<typeof ConsoleRolloutDetail>;

export const ConsoleKeys = z
  .object({
    keys: z.array(
      z.object({
        key_id: z.string(),
        label: z.string(),
        created_at: time,
        revoked_at: time.nullable(),
        /** It came with this request. */
        current: z.boolean(),
      }),
    ),
  })
  .meta({ id: 'ConsoleKeys' });

export type ConsoleKeys = z.infer<typeof ConsoleKeys>;

/** What the key's owner used, by day of UTC, oldest first. */
export const ConsoleUsage = z
  .object({
    days: z.array(
      z.object({
        day: z.string(),
        trained_tokens: count,
        steps: count,
        prompt_tokens: count,
        sampled_tokens: count,
      }),
    ),
    checkpoints: count,
    checkpoint_bytes: count,
    runs: count,
  })
  .meta({ id: 'ConsoleUsage' });

export type ConsoleUsage = z.infer<typeof ConsoleUsage>;

/** Events of the live stream, by the name of each. */
export const consoleEvents = {
  overview: ConsoleOverview,
  /** New steps of a run. */
  metrics: ConsoleMetrics,
  /** A session has new rollouts. */
  rollouts: z.object({ session_id: z.string() }),
};

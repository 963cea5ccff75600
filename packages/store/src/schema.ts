/**
 * The tables, as kysely sees them. Every column has the same type on SQLite and PostgreSQL: times are milliseconds since
 * 1970, flags are 0 or 1, JSON is text, and 64-bit sequence numbers are decimal text, because neither a JavaScript
 * number nor a JSON column keeps them exactly.
 */

export interface SettingsTable {
  name: string;
  value: string;
}

export interface ApiKeysTable {
  id: string;
  owner: string;
  label: string;
  key_hash: string;
  created_at: number;
  revoked_at: number | null;
}

export interface SessionsTable {
  id: string;
  owner: string;
  project_id: string | null;
  display_name: string | null;
  tags: string;
  user_metadata: string;
  sdk_version: string;
  created_at: number;
  last_heartbeat_at: number;
  finished_at: number | null;
  finish_reason: string | null;
  finish_detail: string | null;
}

export interface TrainingRunsTable {
  id: string;
  session_id: string;
  owner: string;
  project_id: string | null;
  base_model: string;
  lora_rank: number;
  lora_alpha: number;
  lora_seed: string | null;
  train_attn: number;
  train_mlp: number;
  train_unembed: number;
  share_experts: number;
  user_metadata: string | null;
  created_at: number;
  last_request_at: number;
  /** Largest sequence number accepted so far. */
  last_seq: string;
  corrupted: number;
  unloaded_at: number | null;
  /** Number of the request that the live snapshot includes; null when there is no snapshot. */
  snapshot_seq: string | null;
  snapshot_step: number | null;
  snapshot_blob: string | null;
  /** 1 when the optimizer's moments are restored from the snapshot too. */
  snapshot_optimizer: number;
  /** Number of the latest finished request that changed weights, moments or gradient. */
  changed_seq: string;
}

export interface SamplersTable {
  id: string;
  session_id: string;
  owner: string;
  base_model: string;
  model_path: string | null;
  /** Folder with the adapter; null for a plain base model. */
  blob: string | null;
  clones: number;
  created_at: number;
  last_used_at: number;
  expired_at: number | null;
}

export interface CheckpointsTable {
  run_id: string;
  kind: 'weights' | 'sampler_weights' | 'external_weights';
  name: string;
  owner: string;
  blob: string;
  /** JSON list of {name, size, sha256}. */
  files: string;
  size_bytes: number;
  public: number;
  user_metadata: string | null;
  base_model: string;
  lora_rank: number;
  train_attn: number;
  train_mlp: number;
  train_unembed: number;
  created_at: number;
  expires_at: number | null;
}

export interface FuturesTable {
  request_id: string;
  owner: string;
  /** Wire name of the request: `forward_backward`, `sample`, ... */
  kind: string;
  model_id: string | null;
  sampler_id: string | null;
  seq: string | null;
  body_hash: string;
  state: 'pending' | 'done' | 'failed' | 'expired';
  result_type: 'json' | 'protobuf' | null;
  result_size: number | null;
  error: string | null;
  category: 'user' | 'server' | null;
  created_at: number;
  /** When its work was handed on. */
  started_at: number | null;
  finished_at: number | null;
  read_at: number | null;
  /** Grows with each completion; 0 while pending. */
  completion: number;
  /** JSON of a `CallDetail`. */
  detail: string | null;
}

export interface FutureResultsTable {
  request_id: string;
  body: Uint8Array;
}

export interface RunMetricsTable {
  run_id: string;
  /** Optimizer steps of the run so far, this one included. */
  step: number;
  at: number;
  /** JSON object: name to number. */
  metrics: string;
}

export interface RunSettingsTable {
  run_id: string;
  /** JSON object: what the latest step was computed with. */
  settings: string;
}

export interface RolloutsTable {
  id: string;
  session_id: string;
  owner: string;
  sampler_id: string;
  base_model: string;
  model_path: string | null;
  at: number;
  /** JSON object: what a list shows. */
  summary: string;
  /** JSON object: token ids and log-probabilities. */
  tokens: string;
}

export interface UsageDaysTable {
  owner: string;
  /** `2026-01-31`, by UTC. */
  day: string;
  trained_tokens: number;
  steps: number;
  prompt_tokens: number;
  sampled_tokens: number;
}

export interface Tables {
  settings: SettingsTable;
  api_keys: ApiKeysTable;
  sessions: SessionsTable;
  training_runs: TrainingRunsTable;
  samplers: SamplersTable;
  checkpoints: CheckpointsTable;
  futures: FuturesTable;
  future_results: FutureResultsTable;
  run_metrics: RunMetricsTable;
  run_settings: RunSettingsTable;
  rollouts: RolloutsTable;
  usage_days: UsageDaysTable;
}

export { BlobMissingError, type BlobStore, type ByteRange } from './blobs/blob-store.ts';
export { LocalBlobs } from './blobs/local-blobs.ts';
export { openS3Blobs } from './blobs/open-s3.ts';
export type { S3Options } from './blobs/s3-blobs.ts';
export type {
  CheckpointKey,
  CheckpointKind,
  CheckpointStore,
  PutOutcome,
  StoredCheckpoint,
  StoredFile,
} from './checkpoints.ts';
export type { DailyUsageStore, DayUsage } from './daily-usage.ts';
export { type Database, DatabaseInUseError, isTextRefused, openPostgres, openSqlite } from './database.ts';
export { FolderInUseError, lockFolder } from './folder-lock.ts';
export type {
  CallDetail,
  ErrorCategory,
  FutureRow,
  FutureStore,
  NewFuture,
  Outcome,
  RunEffect,
} from './futures.ts';
export type { ApiKey, KeyStore } from './keys.ts';
export type { Rollout, RolloutStore, RolloutSummary, RolloutTokens } from './rollouts.ts';
export type { RunMetricsStore, RunSettings, StepMetrics } from './run-metrics.ts';
export type { Sampler, SamplerStore } from './samplers.ts';
export type { FinishReason, Session, SessionPosition, SessionStore } from './sessions.ts';
export type { SettingsStore } from './settings.ts';
export { createStore, type Store } from './store.ts';
export type { Page, RunLora, Snapshot, TrainingRun, TrainingRunStore } from './training-runs.ts';
export type { ProjectStorage, TracedRequest, UsageStore } from './usage.ts';

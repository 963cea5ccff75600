import { isBlobUsed } from './blob-references.ts';
import type { BlobStore } from './blobs/blob-store.ts';
import { CheckpointStore } from './checkpoints.ts';
import { DailyUsageStore } from './daily-usage.ts';
import type { Database } from './database.ts';
import { FutureStore } from './futures.ts';
import { KeyStore } from './keys.ts';
import { RolloutStore } from './rollouts.ts';
import { RunMetricsStore } from './run-metrics.ts';
import { SamplerStore } from './samplers.ts';
import { SessionStore } from './sessions.ts';
import { SettingsStore } from './settings.ts';
import { TrainingRunStore } from './training-runs.ts';
import { UsageStore } from './usage.ts';

/** Everything that outlives the process. */
export interface Store {
  settings: SettingsStore;
  keys: KeyStore;
  sessions: SessionStore;
  runs: TrainingRunStore;
  samplers: SamplerStore;
  checkpoints: CheckpointStore;
  futures: FutureStore;
  usage: UsageStore;
  metrics: RunMetricsStore;
  rollouts: RolloutStore;
  dailyUsage: DailyUsageStore;
  blobs: BlobStore;
  /** Removes stored content once no row needs it. */
  releaseBlob(key: string): Promise<void>;
  close(): Promise<void>;
}

/** Joins an open database and a blob store; closing the store closes both. */
export function createStore(database: Database, blobs: BlobStore): Store {
  return {
    settings: new SettingsStore(database),
    keys: new KeyStore(database),
    sessions: new SessionStore(database),
    runs: new TrainingRunStore(database),
    samplers: new SamplerStore(database),
    checkpoints: new CheckpointStore(database),
    futures: new FutureStore(database),
    usage: new UsageStore(database),
    metrics: new RunMetricsStore(database),
    rollouts: new RolloutStore(database),
    dailyUsage: new DailyUsageStore(database),
    blobs,
    releaseBlob: async (key) => {
      if (!(await isBlobUsed(database, key))) await blobs.delete(key);
    },
    close: async () => {
      await database.close();
      await blobs.close();
    },
  };
}

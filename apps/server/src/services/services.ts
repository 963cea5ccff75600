import type { Engine } from '@anneal/engine';
import type { Store, UsageStore } from '@anneal/store';
import type { FastifyBaseLogger } from 'fastify';
import type { ServerConfig } from '../config.ts';
import type { Tracing } from '../telemetry/tracing.ts';
import { AssetStore } from './assets.ts';
import { BaseModels } from './base-models.ts';
import { CheckpointService } from './checkpoints.ts';
import { ConsoleAccountService } from './console-account.ts';
import { ConsoleRolloutService } from './console-rollouts.ts';
import { ConsoleRunService } from './console-runs.ts';
import { CopyService } from './copies.ts';
import { FutureService } from './futures.ts';
import { KeyService } from './keys.ts';
import { LiveFeed } from './live-feed.ts';
import { LiveModels } from './live-models.ts';
import { Metrics } from './metrics.ts';
import { ModelService } from './models.ts';
import { Monitor } from './monitor.ts';
import { OpenAiGenerator } from './openai-generation.ts';
import { OpenAiModels } from './openai-models.ts';
import { PassService } from './passes.ts';
import { Recorder } from './recorder.ts';
import { RunService } from './runs.ts';
import { SamplerPool } from './sampler-pool.ts';
import { SamplerService } from './samplers.ts';
import { SamplingService } from './sampling.ts';
import { SaveService } from './saves.ts';
import { SessionService } from './sessions.ts';
import { TrainingService } from './training.ts';

/** Everything that routes call. */
export interface Services {
  baseModels: BaseModels;
  sessions: SessionService;
  futures: FutureService;
  checkpoints: CheckpointService;
  training: TrainingService;
  live: LiveModels;
  models: ModelService;
  passes: PassService;
  saves: SaveService;
  samplers: SamplerService;
  sampling: SamplingService;
  runs: RunService;
  copies: CopyService;
  keys: KeyService;
  usage: UsageStore;
  /** What Prometheus reads; absent when it is off. */
  metrics: Metrics | undefined;
  openAi: { models: OpenAiModels; generator: OpenAiGenerator };
  /** What only the web console asks. */
  console: {
    monitor: Monitor;
    recorder: Recorder;
    feed: LiveFeed;
    runs: ConsoleRunService;
    rollouts: ConsoleRolloutService;
    account: ConsoleAccountService;
  };
  /** Resolves when the engine answers. */
  health(): Promise<void>;
}

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;

/** Builds the services over a store and an engine. */
export async function createServices(
  store: Store,
  engine: Engine,
  config: ServerConfig,
  log: FastifyBaseLogger,
  tracing?: Tracing,
): Promise<Services> {
  const baseModels = new BaseModels(await engine.baseModels(), config.models);
  const assets = new AssetStore(config.assetsDir);
  const sessions = new SessionService(store);
  const checkpoints = new CheckpointService(store);
  const pool = new SamplerPool(engine, log, config.maxOpenSamplers);
  const futures = new FutureService(store, log, {
    keepMs: config.resultKeepMinutes * MINUTE,
    maxMs: config.resultMaxHours * HOUR,
    trace: tracing && (() => tracing.current),
  });
  tracing?.follow(futures);
  const live = new LiveModels(
    { store, engine, checkpoints, log },
    { gapMs: config.gapSeconds * 1000, journalMs: config.journalSeconds * 1000 },
  );
  const training = new TrainingService({ store, sessions, futures, live, log });
  const samplers = new SamplerService({ store, baseModels, sessions, checkpoints, pool });
  const runs = new RunService(store);
  const openAiModels = new OpenAiModels({ baseModels, samplers });
  const monitor = new Monitor(engine, baseModels, log);
  const recorder = new Recorder(store, log, {
    metricSteps: config.metricSteps,
    rollouts: config.rolloutsPerSession,
  });
  return {
    baseModels,
    sessions,
    futures,
    checkpoints,
    training,
    live,
    samplers,
    runs,
    copies: new CopyService(store, sessions, checkpoints),
    keys: new KeyService(store),
    usage: store.usage,
    metrics: config.metrics === 'on' ? new Metrics({ monitor, recorder, futures, log }) : undefined,
    openAi: {
      models: openAiModels,
      generator: new OpenAiGenerator({
        engine,
        samplers,
        pool,
        recorder,
        maxPending: config.maxPendingSamples,
        onGenerated: tracing && ((generated) => tracing.generated(generated)),
      }),
    },
    console: {
      monitor,
      recorder,
      feed: new LiveFeed(monitor, recorder),
      runs: new ConsoleRunService({ store, runs, checkpoints, futures }, config.sessionSilenceSeconds * 1000),
      rollouts: new ConsoleRolloutService({ store, sessions, baseModels, models: openAiModels }),
      account: new ConsoleAccountService(store),
    },
    health: async () => void (await engine.status()),
    models: new ModelService({ store, engine, baseModels, sessions, checkpoints, live, training }, config),
    passes: new PassService({ engine, baseModels, assets, training, live, recorder }),
    saves: new SaveService({ store, engine, training, checkpoints, pool, samplers }, config),
    sampling: new SamplingService(
      { engine, baseModels, assets, sessions, futures, samplers, pool, recorder, log },
      { maxPending: config.maxPendingSamples },
    ),
  };
}

import type { Store } from '@anneal/store';
import type { FastifyBaseLogger } from 'fastify';
import type { ServerConfig } from './config.ts';
import type { Services } from './services/services.ts';

const EVERY_MS = 30_000;
const HOUR = 3_600_000;

/** Removes, every half minute, what has outlived its time. Returns how to stop. */
export function startSweeping(
  services: Services,
  store: Store,
  config: ServerConfig,
  log: FastifyBaseLogger,
): () => void {
  let running = false;
  const timer = setInterval(async () => {
    if (running) return;
    running = true;
    await sweep(services, store, config, Date.now()).catch((error: unknown) => {
      log.error({ err: error }, 'cleaning up failed; it is tried again');
    });
    running = false;
  }, EVERY_MS);
  timer.unref();
  return () => clearInterval(timer);
}

/** One round: results, checkpoints, samplers and snapshots; and models whose client has been silent are stored and freed. */
export async function sweep(
  services: Services,
  store: Store,
  config: ServerConfig,
  now: number,
): Promise<void> {
  await services.futures.sweep();
  await services.checkpoints.sweep();
  await services.samplers.sweep(now - config.samplerKeepHours * HOUR);
  for (const run of await store.runs.idleSnapshots(now - config.snapshotKeepHours * HOUR)) {
    await services.live.forgetSnapshot(run);
  }
  await services.console.recorder.sweep({
    metrics: now - config.metricKeepDays * 24 * HOUR,
    rollouts: now - config.rolloutKeepHours * HOUR,
  });
  await services.live.storeIdle();
  await freeSilent(services, store, now - config.sessionSilenceSeconds * 1000);
}

/** Only what is held now is looked at: sessions that ended without a word stay behind for ever. */
async function freeSilent(services: Services, store: Store, before: number): Promise<void> {
  for (const sessionId of services.sampling.sessionsSince(before)) {
    if (await isSilent(store, sessionId, before)) services.sampling.abortSession(sessionId, before);
  }
  for (const { runId, sessionId } of await services.live.held()) {
    const run = await store.runs.get(runId);
    if (run && run.lastRequestAt < before && (await isSilent(store, sessionId, before))) {
      await services.live.park(runId);
    }
  }
}

async function isSilent(store: Store, sessionId: string, before: number): Promise<boolean> {
  const session = await store.sessions.get(sessionId);
  return session !== undefined && session.lastHeartbeatAt < before;
}

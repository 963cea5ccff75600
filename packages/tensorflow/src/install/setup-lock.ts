/** Lets one process at a time fill the cache. */
import { lock } from 'proper-lockfile';
import { systemErrorCode } from './errors.ts';

/** A lock whose owner died is taken over after this long; living owners refresh it. */
const STALE_MS = 15_000;

/** Takes the lock on `folder` and returns its release, or undefined while another process holds it. */
export async function trySetupLock(folder: string): Promise<(() => Promise<void>) | undefined> {
  try {
    const release = await lock(folder, {
      stale: STALE_MS,
      update: STALE_MS / 5,
      // A process that was stopped for long loses its lock. That costs double work, never a broken cache: everyone
      // works in a folder of their own and renames it.
      onCompromised: () => {},
    });
    return () => release().catch(() => {});
  } catch (error) {
    if (systemErrorCode(error) === 'ELOCKED') return undefined;
    throw error;
  }
}

/** The addon in the cache: finds it, or builds it while holding the lock. */
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ADDON_FILE } from '../binding.ts';
import { type AddonSources, findAddonSources, hashSources } from './addon-sources.ts';
import { cacheWriteError, makeCacheDir } from './cache-dir.ts';
import { isComplete, publish } from './cache-entry.ts';
import { COMPILER_FLAGS, compileAddon, findCompiler, verifyAddon } from './compile-addon.ts';
import { buildLibraries } from './libraries.ts';
import { findPip } from './pip.ts';
import type { OnSetupProgress } from './progress.ts';
import { trySetupLock } from './setup-lock.ts';
import { TENSORFLOW_VERSION, type WheelPlan } from './wheel-plan.ts';

const WORK_PREFIX = 'work-';
const LOCK_POLL_MS = 500;

export interface AddonRequest {
  plan: WheelPlan;
  cacheDir: string;
  env: NodeJS.ProcessEnv;
  onProgress: OnSetupProgress;
}

/** Names of the two cache entries. The libraries are shared by addons built from different sources. */
interface Layout {
  root: string;
  libraries: string;
  addonFolder: string;
  addon: string;
}

/** Returns the path of a complete addon. At most one process per cache folder builds; the others wait for it. */
export async function ensureAddon(request: AddonRequest): Promise<string> {
  const sources = findAddonSources();
  const layout = await planLayout(request, sources);
  if (await isReady(layout)) return layout.addon;
  await makeCacheDir(layout.root);
  const release = await acquire(layout, request);
  if (!release) return layout.addon;
  try {
    await removeLeftovers(layout.root);
    await build(layout, sources, request);
  } catch (error) {
    throw cacheWriteError(layout.root, error);
  } finally {
    await release();
  }
  request.onProgress({ step: 'ready', message: 'TensorFlow is ready' });
  return layout.addon;
}

async function planLayout({ plan, cacheDir }: AddonRequest, sources: AddonSources): Promise<Layout> {
  const root = path.join(cacheDir, 'tensorflow');
  const target = `${TENSORFLOW_VERSION}-${plan.variant}-${process.platform}-${process.arch}`;
  const hash = await hashSources(sources, COMPILER_FLAGS.join(' '));
  const addonFolder = path.join(root, `addon-${target}-tfjs-${sources.tfjsVersion}-${hash}`);
  return {
    root,
    libraries: path.join(root, `libraries-${target}`),
    addonFolder,
    addon: path.join(addonFolder, ADDON_FILE),
  };
}

async function isReady(layout: Layout): Promise<boolean> {
  return (await isComplete(layout.addonFolder)) && (await isComplete(layout.libraries));
}

/** The lock's release, or undefined once another process has finished the addon. */
async function acquire(
  layout: Layout,
  { onProgress }: AddonRequest,
): Promise<(() => Promise<void>) | undefined> {
  for (;;) {
    const release = await trySetupLock(layout.root).catch((error: unknown) => {
      throw cacheWriteError(layout.root, error);
    });
    if (await isReady(layout)) {
      await release?.();
      return undefined;
    }
    if (release) return release;
    onProgress({ step: 'wait', message: 'Waiting for another process that is setting up TensorFlow' });
    await sleep(LOCK_POLL_MS);
  }
}

/** Work folders of processes that were killed: whoever holds the lock is the only one with a right to one. */
async function removeLeftovers(root: string): Promise<void> {
  const leftovers = (await readdir(root)).filter((name) => name.startsWith(WORK_PREFIX));
  await Promise.all(leftovers.map((name) => rm(path.join(root, name), { recursive: true, force: true })));
}

async function build(
  layout: Layout,
  sources: AddonSources,
  { plan, env, onProgress }: AddonRequest,
): Promise<void> {
  const needsLibraries = !(await isComplete(layout.libraries));
  // Both tools are looked for before anything large is downloaded.
  const compiler = await findCompiler(env);
  if (needsLibraries) {
    const pip = await findPip(env);
    await inWorkFolder(layout.root, (work) =>
      buildLibraries({ plan, pip, folder: layout.libraries, work, env, onProgress }),
    );
  }
  await inWorkFolder(layout.root, async (work) => {
    const output = path.join(work, path.basename(layout.addon));
    const tensorflow = path.join(layout.libraries, 'tensorflow');
    // A work folder lies beside the libraries like the final one, so the addon can be tried before it is renamed.
    const runPath = `$ORIGIN/../${path.basename(layout.libraries)}/tensorflow`;
    onProgress({ step: 'compile', message: `Compiling the TensorFlow addon with ${compiler}` });
    await compileAddon({ compiler, sources, tensorflow, runPath, output, env });
    onProgress({ step: 'verify', message: 'Checking that the TensorFlow addon loads' });
    await verifyAddon(output, env);
    await publish(work, layout.addonFolder);
  });
}

async function inWorkFolder(root: string, body: (work: string) => Promise<void>): Promise<void> {
  const work = await mkdtemp(path.join(root, WORK_PREFIX));
  try {
    await body(work);
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

/** Downloads TensorFlow's C++ libraries (and NVIDIA's, for a GPU) and lays them out as their run paths expect. */
import { rm, stat } from 'node:fs/promises';
import path from 'node:path';
import { cacheWriteError, checkDiskSpace } from './cache-dir.ts';
import { publish } from './cache-entry.ts';
import { systemErrorCode, TensorflowSetupError } from './errors.ts';
import { downloadWheel } from './pip.ts';
import type { OnSetupProgress } from './progress.ts';
import { readExtraRequirements, unpackWheel } from './wheel.ts';
import { TENSORFLOW_VERSION, type WheelPlan } from './wheel-plan.ts';

export interface LibraryBuild {
  plan: WheelPlan;
  pip: string[];
  /** Folder to make: `tensorflow/` and, for a GPU, `nvidia/` inside. */
  folder: string;
  /** Empty folder on the same disk. */
  work: string;
  env: NodeJS.ProcessEnv;
  onProgress: OnSetupProgress;
}

export async function buildLibraries(build: LibraryBuild): Promise<void> {
  const { plan, folder, work } = build;
  await checkDiskSpace(work, plan.diskBytes);
  const unpacked = path.join(work, 'libraries');
  const fetch = fetcher(build, unpacked);
  const requirements = await fetch(`${plan.package}==${TENSORFLOW_VERSION}`, isLibraryOrHeader);
  if (plan.variant === 'cuda12') {
    for (const requirement of requirements) await fetch(requirement, isCudaRuntime);
  }
  await publish(unpacked, folder);
}

/** The libraries, and the few headers of the C API that the addon includes; the rest of a wheel is Python. */
export function isLibraryOrHeader(file: string): boolean {
  return (
    /^tensorflow\/libtensorflow_(cc|framework)\.so\.2$/.test(file) ||
    /^tensorflow\/include\/(tensorflow\/c|tensorflow\/core\/platform|tsl\/platform|xla\/tsl)\/.*\.h$/.test(
      file,
    ) ||
    /^tensorflow\/THIRD_PARTY_NOTICES\.txt$/.test(file)
  );
}

/** NVIDIA's libraries and the tools that XLA calls (ptxas, libdevice), without headers. */
export function isCudaRuntime(file: string): boolean {
  return file.startsWith('nvidia/') && !file.includes('/include/') && !file.endsWith('.py');
}

/** Downloads one wheel after the other into `unpacked`; each returns the requirements of its `and-cuda` extra. */
function fetcher({ plan, pip, work, env, onProgress }: LibraryBuild, unpacked: string) {
  let finishedBytes = 0;
  return async (requirement: string, wanted: (file: string) => boolean): Promise<string[]> => {
    const name = requirement.replace(/[<>=].*/, '');
    let wheelBytes = 0;
    const folder = path.join(work, name);
    const wheel = await downloadWheel({
      ...{ pip, requirement, folder, env, platformTags: plan.platformTags },
      onBytes: (bytes) => {
        wheelBytes = Math.max(wheelBytes, bytes);
        const receivedBytes = Math.min(finishedBytes + wheelBytes, plan.downloadBytes);
        onProgress({
          step: 'download',
          message: 'Downloading TensorFlow',
          receivedBytes,
          totalBytes: plan.downloadBytes,
        });
      },
    });
    finishedBytes += (await stat(wheel)).size;
    onProgress({ step: 'unpack', message: `Unpacking ${name}` });
    try {
      await unpackWheel(wheel, unpacked, wanted);
      return await readExtraRequirements(wheel, 'and-cuda');
    } catch (error) {
      throw unpackError(work, requirement, error);
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  };
}

function unpackError(work: string, requirement: string, error: unknown): unknown {
  if (systemErrorCode(error)) return cacheWriteError(work, error);
  const remedy = 'Start again; if it stays, check which package index pip uses (`pip config list`).';
  return new TensorflowSetupError(
    'download_failed',
    `The wheel of ${requirement} cannot be read: ${error}.`,
    remedy,
    error,
  );
}

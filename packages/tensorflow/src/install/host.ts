/** The facts about this machine that decide which TensorFlow it can run. */
import { access, readFile } from 'node:fs/promises';
import { runCommand } from './run-command.ts';

export interface Host {
  platform: NodeJS.Platform;
  arch: string;
  /** Version of GNU libc; undefined on musl and outside Linux. */
  glibc: string | undefined;
  /** CPU feature names as Linux spells them (`avx2`, `avx512f`, ...); undefined where they cannot be read. */
  cpuFlags: ReadonlySet<string> | undefined;
  nvidiaGpu: boolean;
}

export async function describeHost(env: NodeJS.ProcessEnv = process.env): Promise<Host> {
  return {
    platform: process.platform,
    arch: process.arch,
    glibc: glibcVersion(),
    cpuFlags: await readCpuFlags(),
    nvidiaGpu: process.platform === 'linux' && (await hasNvidiaGpu(env)),
  };
}

function glibcVersion(): string | undefined {
  const report = process.report.getReport() as { header?: { glibcVersionRuntime?: string } };
  return report.header?.glibcVersionRuntime;
}

export async function readCpuFlags(file = '/proc/cpuinfo'): Promise<ReadonlySet<string> | undefined> {
  return parseCpuFlags(await readFile(file, 'utf8').catch(() => ''));
}

/** What `/proc/cpuinfo` says of the first processor: `flags` on x86, `Features` on Arm. */
export function parseCpuFlags(text: string): ReadonlySet<string> | undefined {
  const flags = /^(?:flags|Features)\s*:\s*(.+)$/m.exec(text)?.[1];
  return flags === undefined ? undefined : new Set(flags.trim().split(/\s+/));
}

const exists = (file: string) =>
  access(file).then(
    () => true,
    () => false,
  );

/** A driver is loaded and `CUDA_VISIBLE_DEVICES` does not hide every GPU. Under WSL only nvidia-smi tells. */
async function hasNvidiaGpu(env: NodeJS.ProcessEnv): Promise<boolean> {
  if (env.CUDA_VISIBLE_DEVICES === '' || env.CUDA_VISIBLE_DEVICES === '-1') return false;
  if ((await exists('/dev/nvidia0')) || (await exists('/proc/driver/nvidia/version'))) return true;
  const smi = await runCommand(['nvidia-smi', '-L'], { env, timeoutMs: 10_000 });
  return smi.exitCode === 0 && /^GPU \d+:/m.test(smi.stdout);
}

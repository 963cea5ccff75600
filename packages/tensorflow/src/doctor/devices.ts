/** What the machine has: processor, memory, GPUs. Nothing here needs TensorFlow. */
import os from 'node:os';
import { readCpuFlags } from '../install/host.ts';
import { runCommand } from '../install/run-command.ts';

export interface CpuReport {
  model: string;
  /** Threads that this process may use. */
  cores: number;
  /** Instruction sets that decide how fast a matrix product is; empty where they cannot be read. */
  features: Record<string, boolean>;
}

export interface MemoryReport {
  /** Bytes of the machine, or of the container when it is limited to less. */
  totalBytes: number;
  availableBytes: number;
}

export interface GpuReport {
  name: string;
  driver: string;
  totalBytes: number;
  freeBytes: number;
}

/** Linux's names for the features that TensorFlow's CPU kernels look for. */
const FEATURES: Record<string, Record<string, string>> = {
  x64: { avx2: 'avx2', avx512: 'avx512f', avx512_bf16: 'avx512_bf16', amx_bf16: 'amx_bf16' },
  arm64: { sve: 'sve', bf16: 'bf16', i8mm: 'i8mm' },
};

export async function describeCpu(): Promise<CpuReport> {
  const flags = await readCpuFlags();
  const wanted = flags ? Object.entries(FEATURES[process.arch] ?? {}) : [];
  return {
    model: os.cpus()[0]?.model.trim() ?? 'unknown',
    cores: os.availableParallelism(),
    features: Object.fromEntries(wanted.map(([name, flag]) => [name, flags?.has(flag) ?? false])),
  };
}

export function describeMemory(): MemoryReport {
  const limit = process.constrainedMemory();
  const machine = os.totalmem();
  return {
    totalBytes: limit > 0 ? Math.min(limit, machine) : machine,
    availableBytes: process.availableMemory(),
  };
}

const QUERY = [
  'nvidia-smi',
  '--query-gpu=name,driver_version,memory.total,memory.free',
  '--format=csv,noheader,nounits',
];

/** NVIDIA GPUs by nvidia-smi; none where it is missing. */
export async function describeGpus(env: NodeJS.ProcessEnv = process.env): Promise<GpuReport[]> {
  const { exitCode, stdout } = await runCommand(QUERY, { env, timeoutMs: 10_000 });
  if (exitCode !== 0) return [];
  const rows = stdout
    .trim()
    .split('\n')
    .map((line) => line.split(',').map((cell) => cell.trim()));
  return rows
    .filter((row) => row.length === 4)
    .map(([name = '', driver = '', totalMib, freeMib]) => ({
      name,
      driver,
      totalBytes: Number(totalMib) * 2 ** 20,
      freeBytes: Number(freeMib) * 2 ** 20,
    }));
}

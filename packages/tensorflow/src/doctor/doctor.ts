/** `anneal doctor`: which backend this machine gets, why, and whether it does what training needs. */
import { backendInfo, graphBinding } from '../backend.ts';
import { annealCacheDir } from '../install/cache-dir.ts';
import { type PreparedTensorflow, type PrepareOptions, prepareTensorflow } from '../install/prepare.ts';
import { loadTensorflow } from '../load.ts';
import { tf } from '../tf.ts';
import { type Check, checkBfloat16, checkCompiled, measureMatmul } from './checks.ts';
import {
  type CpuReport,
  describeCpu,
  describeGpus,
  describeMemory,
  type GpuReport,
  type MemoryReport,
} from './devices.ts';

export interface DoctorReport {
  backend: PreparedTensorflow & {
    /** TensorFlow itself reports that it computes on a GPU. */
    usesGpu: boolean;
  };
  cacheDir: string;
  /** `tensorflow` is absent with the WebAssembly backend. */
  versions: { node: string; tensorflow?: string; tfjs: string };
  cpu: CpuReport;
  memory: MemoryReport;
  gpus: GpuReport[];
  compiledFunctions: Check;
  xla: Check;
  bf16: Check;
  /** Rates in GFLOP/s of a square product; bf16 only where it works. */
  matmul: { size: number; fp32: number; bf16?: number };
}

const CPU_MATMUL_SIZE = 1024;
const GPU_MATMUL_SIZE = 4096;

/**
 * Prepares and loads TensorFlow like the server does, then examines it. A setup problem becomes a note of the report,
 * with WebAssembly examined instead; only a GPU that was asked for and cannot be used is thrown.
 */
export async function doctor(options: Omit<PrepareOptions, 'fallback'> = {}): Promise<DoctorReport> {
  const prepared = await prepareTensorflow({ ...options, fallback: 'wasm' });
  await loadTensorflow(prepared);
  const loaded = prepared.kind === 'wasm' ? undefined : backendInfo();
  const usesGpu = loaded?.gpu ?? false;
  const bf16 = checkBfloat16();
  const size = usesGpu ? GPU_MATMUL_SIZE : CPU_MATMUL_SIZE;
  return {
    backend: { ...prepared, usesGpu, notes: [...prepared.notes, ...gpuNotes(prepared, usesGpu)] },
    cacheDir: options.cacheDir ?? annealCacheDir(),
    versions: { node: process.versions.node, tensorflow: loaded?.tensorflowVersion, tfjs: tf.version_core },
    cpu: await describeCpu(),
    memory: describeMemory(),
    gpus: await describeGpus(),
    compiledFunctions: checkCompiled({ xla: false }),
    xla: checkCompiled({ xla: true }),
    bf16,
    matmul: {
      size,
      fp32: measureMatmul(size, 'fp32'),
      ...(bf16.status === 'ok' && graphBinding() ? { bf16: measureMatmul(size, 'bf16') } : {}),
    },
  };
}

function gpuNotes(prepared: PreparedTensorflow, usesGpu: boolean): string[] {
  if (!prepared.gpu || usesGpu) return [];
  return [
    'TensorFlow is built for CUDA but found no GPU it can use: its driver may be too old (CUDA 12 needs 525 or newer).',
  ];
}

/** Which TensorFlow wheel fits a machine. The choice is data and pure functions; nothing is downloaded here. */
import type { Host } from './host.ts';

/** The release whose libraries the addon is built against. */
export const TENSORFLOW_VERSION = '2.21.0';
/** Wheels come per Python version, but the C++ libraries inside do not depend on it: any one will do. */
export const WHEEL_PYTHON = '3.12';

export type Device = 'auto' | 'cpu' | 'gpu';

export interface WheelPlan {
  /** PyPI package that holds the two C++ libraries. */
  package: 'tensorflow-cpu' | 'tensorflow';
  /** Names the build in the cache: `cpu`, or the CUDA major version. */
  variant: 'cpu' | 'cuda12';
  /** pip platform tags, best first. NVIDIA's wheels carry older ones than TensorFlow's. */
  platformTags: string[];
  /** Bytes to download; an estimate where NVIDIA's libraries are part of it. */
  downloadBytes: number;
  /** Free bytes needed while unpacking: pip holds the wheel twice for a moment. */
  diskBytes: number;
}

export interface WheelChoice {
  plan?: WheelPlan;
  /** Why there is no plan, or what the person should know about it. */
  notes: string[];
}

const MINIMUM_GLIBC = '2.27';

/** Picks the wheel, or says why this machine cannot have one. */
export function chooseWheel(host: Host, device: Device): WheelChoice {
  const reason = unsupported(host);
  if (reason) return { notes: [reason] };
  if (host.arch === 'arm64') {
    const notes =
      host.nvidiaGpu && device !== 'cpu'
        ? ['TensorFlow publishes no CUDA build for Linux on Arm: the GPU stays unused.']
        : [];
    return { plan: ARM_CPU, notes };
  }
  const gpu = device === 'gpu' || (device === 'auto' && host.nvidiaGpu);
  return { plan: gpu ? X64_CUDA : X64_CPU, notes: [] };
}

const X64_CPU: WheelPlan = {
  package: 'tensorflow-cpu',
  variant: 'cpu',
  platformTags: ['manylinux_2_27_x86_64'],
  downloadBytes: 274_000_871,
  diskBytes: 1_500_000_000,
};

const X64_CUDA: WheelPlan = {
  package: 'tensorflow',
  variant: 'cuda12',
  platformTags: [
    'manylinux_2_27_x86_64',
    'manylinux_2_17_x86_64',
    'manylinux2014_x86_64',
    'manylinux_2_12_x86_64',
  ],
  downloadBytes: 3_380_000_000,
  diskBytes: 7_500_000_000,
};

const ARM_CPU: WheelPlan = {
  package: 'tensorflow',
  variant: 'cpu',
  platformTags: ['manylinux_2_27_aarch64'],
  downloadBytes: 281_900_000,
  diskBytes: 1_600_000_000,
};

function unsupported(host: Host): string | undefined {
  const { platform, arch, glibc, cpuFlags } = host;
  if (platform !== 'linux') return `Anneal builds its TensorFlow addon on Linux only; this is ${platform}.`;
  if (arch !== 'x64' && arch !== 'arm64') return `TensorFlow publishes no library for Linux on ${arch}.`;
  if (!glibc)
    return 'TensorFlow publishes no library for musl libc (Alpine): use a distribution with GNU libc.';
  if (glibc.localeCompare(MINIMUM_GLIBC, undefined, { numeric: true }) < 0) {
    return `TensorFlow ${TENSORFLOW_VERSION} needs GNU libc ${MINIMUM_GLIBC} or newer; this system has ${glibc}.`;
  }
  // TensorFlow's library aborts the whole process on such a CPU, so it must not be tried.
  if (arch === 'x64' && cpuFlags && !cpuFlags.has('avx'))
    return 'TensorFlow needs a CPU with AVX, which this one lacks.';
  return undefined;
}

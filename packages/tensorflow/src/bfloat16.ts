import { readFileSync } from 'node:fs';
import { backendInfo } from './backend.ts';
import { parseCpuFlags } from './install/host.ts';

/** Processor features with which TensorFlow multiplies bfloat16 faster than float32; without, it converts, slowly. */
const FEATURES = ['avx512_bf16', 'amx_bf16', 'bf16'];

/** Whether products in bfloat16 are worth it on the device in use. */
export function multipliesBfloat16(): boolean {
  return backendInfo().gpu || FEATURES.some((feature) => cpuFlags().has(feature));
}

function cpuFlags(): ReadonlySet<string> {
  try {
    return parseCpuFlags(readFileSync('/proc/cpuinfo', 'utf8')) ?? new Set();
  } catch {
    return new Set();
  }
}

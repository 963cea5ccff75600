/** Resident memory of a process: the kernel's own peak where it can be reset (Linux), and a curve over time. */
import { readFileSync, writeFileSync } from 'node:fs';
import type { MemoryCurve } from './result.ts';

const EVERY_MS = 250;
/** The curve is thinned to this many points, so that a long run does not grow it. */
const MOST_POINTS = 240;

/** Resident bytes of a process now; 0 where it cannot be known. */
export function residentBytes(pid: number): number {
  if (pid === process.pid) return process.memoryUsage.rss();
  return statusBytes(pid, 'VmRSS') ?? 0;
}

/**
 * Starts a new peak for a process.
 * @returns the peak since then, as the kernel keeps it or, where it does not, the memory in use at that moment.
 */
export function watchPeak(pid: number): () => number {
  try {
    writeFileSync(`/proc/${pid}/clear_refs`, '5');
  } catch {
    // Not Linux, or not our process: what is in use at the end has to do.
    return () => residentBytes(pid);
  }
  return () => statusBytes(pid, 'VmHWM') ?? residentBytes(pid);
}

/** Bytes that could be used beyond what is; 0 where unknown. */
export function availableBytes(): number {
  return process.availableMemory();
}

export class MemoryWatch {
  readonly #pid: number;
  readonly #start = performance.now();
  readonly #timer: NodeJS.Timeout;
  #points: [number, number][] = [];
  #stride = 1;
  #ticks = 0;
  #peak = 0;

  constructor(pid: number) {
    this.#pid = pid;
    this.#timer = setInterval(() => this.#look(), EVERY_MS);
    this.#timer.unref();
    this.#look();
  }

  #look(): void {
    const bytes = residentBytes(this.#pid);
    this.#peak = Math.max(this.#peak, bytes);
    if (this.#ticks++ % this.#stride !== 0) return;
    this.#points.push([Math.round((performance.now() - this.#start) / 10) / 100, bytes]);
    if (this.#points.length < MOST_POINTS) return;
    this.#points = this.#points.filter((_, i) => i % 2 === 0);
    this.#stride *= 2;
  }

  /** @param peak A higher one that was seen elsewhere, for example by the kernel. */
  stop(peak = 0): MemoryCurve {
    clearInterval(this.#timer);
    this.#look();
    return { peakBytes: Math.max(this.#peak, peak), points: this.#points };
  }
}

function statusBytes(pid: number, key: string): number | undefined {
  try {
    const match = readFileSync(`/proc/${pid}/status`, 'utf8').match(new RegExp(`^${key}:\\s+(\\d+) kB`, 'm'));
    return match ? Number(match[1]) * 1024 : undefined;
  } catch {
    return undefined;
  }
}

/** Messages between the thread that serves and the worker that computes. */

import type { ErrorCategory, ProfilingEngine, SampleProgress } from './engine.ts';
import type { EngineOptions } from './local-engine.ts';

export type EngineMethod = keyof ProfilingEngine;

export interface WorkerStart {
  addonPath: string | undefined;
  options: EngineOptions;
}

export type ToWorker =
  | { type: 'call'; id: number; method: EngineMethod; args: unknown[]; wantsProgress: boolean }
  | { type: 'abort'; id: number };

export interface WireError {
  category: ErrorCategory;
  message: string;
}

export type FromWorker =
  | { type: 'ready' }
  | { type: 'failed'; error: WireError }
  | { type: 'result'; id: number; value: unknown }
  | { type: 'error'; id: number; error: WireError }
  | { type: 'progress'; id: number; progress: SampleProgress };

export { type ImportBase, type ImportedAdapter, importPeft } from './checkpoints/import-peft.ts';
export { readPeftConfig } from './checkpoints/peft-config.ts';
export { writePeftFiles } from './checkpoints/peft-files.ts';
export * from './engine.ts';
export { type EngineOptions, LocalEngine } from './local-engine.ts';
export type { LossModule, LossToolkit } from './losses/load-loss.ts';
export type { LossBatch, LossConfig, LossDefinition, LossInput, LossResult } from './losses/loss.ts';
export type { Precision } from './models/weight-source.ts';
export { createWorkerEngine, type WorkerEngineOptions } from './worker-engine.ts';

export * from './engine.ts';
export type { LossBatch, LossDefinition, LossInput, LossResult } from './losses/loss.ts';

/** Every loss the engine knows, by the name that requests use. A new one is a file and a line here. */
import { EngineError } from '../engine.ts';
import { crossEntropy } from './cross-entropy.ts';
import { importanceSampling } from './importance-sampling.ts';
import type { LossDefinition } from './loss.ts';

const LOSSES = new Map<string, LossDefinition>(
  [crossEntropy, importanceSampling].map((loss) => [loss.name, loss]),
);

export function lossNames(): string[] {
  return [...LOSSES.keys()];
}

/** @throws EngineError (user) that lists the known losses. */
export function findLoss(name: string): LossDefinition {
  const loss = LOSSES.get(name);
  if (loss) return loss;
  throw new EngineError('user', `loss_fn "${name}" is unknown; known: ${lossNames().join(', ')}.`);
}

/** Adds a loss under its own name, for example one loaded from a user's module. */
export function registerLoss(loss: LossDefinition): void {
  if (LOSSES.has(loss.name)) throw new EngineError('user', `A loss named "${loss.name}" is there already.`);
  LOSSES.set(loss.name, loss);
}

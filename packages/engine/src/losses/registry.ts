/** Every loss the engine knows, by the name that requests use. A new one is a file and a line here. */
import { EngineError } from '../engine.ts';
import { cispo } from './cispo.ts';
import { crossEntropy } from './cross-entropy.ts';
import { dpo } from './dpo.ts';
import { dro } from './dro.ts';
import { gspo } from './gspo.ts';
import { importanceSampling } from './importance-sampling.ts';
import type { LossDefinition } from './loss.ts';
import { ppo } from './ppo.ts';
import { REFUSED_LOSSES } from './refused-losses.ts';

const BUILT_IN: LossDefinition[] = [crossEntropy, importanceSampling, ppo, cispo, dro, gspo, dpo];

const LOSSES = new Map(BUILT_IN.map((loss) => [loss.name, loss]));

export function lossNames(): string[] {
  return [...LOSSES.keys()];
}

/** @throws EngineError (user) that lists the known losses, and says what replaces those that are not computed here. */
export function findLoss(name: string): LossDefinition {
  const loss = LOSSES.get(name);
  if (loss) return loss;
  const problem = REFUSED_LOSSES.get(name) ?? 'is unknown.';
  throw new EngineError(
    'user',
    `loss_fn "${name}" ${problem} Losses of this server: ${lossNames().join(', ')}.`,
  );
}

/**
 * Adds a loss under its own name, for example one loaded from a user's module.
 * @throws EngineError (user) where the name is taken.
 */
export function registerLoss(loss: LossDefinition): void {
  if (LOSSES.has(loss.name) || REFUSED_LOSSES.has(loss.name)) {
    throw new EngineError('user', `A loss cannot be named "${loss.name}": that name is taken.`);
  }
  LOSSES.set(loss.name, loss);
}

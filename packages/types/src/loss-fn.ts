import * as z from 'zod';

/** The losses that the API names. A server that lacks one refuses it by name. */
export const LossFnType = z
  .enum(['cross_entropy', 'importance_sampling', 'ppo', 'cispo', 'dro', 'gspo', 'stable_reinforce', 'custom'])
  .meta({ id: 'LossFnType' });

export type LossFnType = z.infer<typeof LossFnType>;

/** A loss by name. Servers may have more than the API names, so any name parses; the server refuses what it lacks. */
export const LossFn = z
  .custom<LossFn>((value) => typeof value === 'string' && value.length > 0, 'must name a loss')
  .meta({ id: 'LossFn', type: 'string' });

/** The names that compile, so that a slip does not; for a loss that a server's owner added, write `'focal' as LossFn`. */
export type LossFn = LossFnType | 'dpo';

/** Settings of a loss, for example PPO's clip thresholds. */
export const LossFnConfig = z
  .record(z.string(), z.union([z.number(), z.string()]))
  .meta({ id: 'LossFnConfig' });

export type LossFnConfig = z.infer<typeof LossFnConfig>;

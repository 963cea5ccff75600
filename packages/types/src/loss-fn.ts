import * as z from 'zod';

/** The losses that the API names. A server that lacks one refuses it by name. */
export const LossFnType = z
  .enum(['cross_entropy', 'importance_sampling', 'ppo', 'cispo', 'dro', 'gspo', 'stable_reinforce', 'custom'])
  .meta({ id: 'LossFnType' });

export type LossFnType = z.infer<typeof LossFnType>;

/** Settings of a loss, for example PPO's clip thresholds. */
export const LossFnConfig = z
  .record(z.string(), z.union([z.number(), z.string()]))
  .meta({ id: 'LossFnConfig' });

export type LossFnConfig = z.infer<typeof LossFnConfig>;

import * as z from 'zod';

/** AdamW with decoupled weight decay. */
export const AdamOptimizerConfig = z
  .strictObject({ type: z.literal('adamw').default('adamw') })
  .meta({ id: 'AdamOptimizerConfig' });

export type AdamOptimizerConfig = z.infer<typeof AdamOptimizerConfig>;

/** The hosted service's second optimizer family. */
export const DimuonOptimizerConfig = z
  .strictObject({ type: z.literal('dimuon'), version: z.literal(1).default(1) })
  .meta({ id: 'DimuonOptimizerConfig' });

export type DimuonOptimizerConfig = z.infer<typeof DimuonOptimizerConfig>;

/** A family we have no schema for; servers refuse it by name. */
const OtherOptimizerConfig = z.looseObject({ type: z.string() });

/** The optimizer's family, fixed for the life of a model. */
export const OptimizerConfig = z
  .union([AdamOptimizerConfig, DimuonOptimizerConfig, OtherOptimizerConfig])
  .meta({ id: 'OptimizerConfig' });

export type OptimizerConfig = z.infer<typeof OptimizerConfig>;

/** Hyperparameters of one Dimuon step. */
export const DimuonParams = z
  .strictObject({
    type: z.literal('dimuon').default('dimuon'),
    learning_rate: z.number().min(0),
    grad_clip_norm: z.number().default(0),
    beta1: z.number().min(0).lt(1).default(0.9),
  })
  .meta({ id: 'DimuonParams' });

export type DimuonParams = z.infer<typeof DimuonParams>;

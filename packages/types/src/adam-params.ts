import * as z from 'zod';

const coefficient = (name: string) =>
  z.number().min(0, `${name} must be in [0, 1)`).lt(1, `${name} must be in [0, 1)`);

/** Hyperparameters of one AdamW step; all of them may change from step to step. */
export const AdamParams = z
  .strictObject({
    learning_rate: z.number().min(0, 'learning_rate must not be negative').default(1e-4),
    /** Decay of the first moment. */
    beta1: coefficient('beta1').default(0.9),
    /** Decay of the second moment. */
    beta2: coefficient('beta2').default(0.95),
    eps: z.number().min(0, 'eps must not be negative').default(1e-12),
    /** Decoupled: parameters shrink by `learning_rate * weight_decay` before the update. */
    weight_decay: z.number().min(0, 'weight_decay must not be negative').default(0),
    /** Largest global L2 norm of the gradient; 0.0 turns clipping off. */
    grad_clip_norm: z.number().min(0, 'grad_clip_norm must not be negative; 0 turns clipping off').default(0),
  })
  .meta({ id: 'AdamParams', description: 'Hyperparameters of one AdamW step' });

export type AdamParams = z.infer<typeof AdamParams>;

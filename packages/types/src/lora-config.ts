import * as z from 'zod';
import { Uint64 } from './integers.ts';

/** What a LoRA adapter covers. The factor on its output is `alpha / rank`; alpha is the server's (32). */
export const LoraConfig = z
  .strictObject({
    rank: z
      .int('rank must be a whole number')
      .positive('rank must be a positive integer, for example 32')
      .default(32),
    /** Same seed and shape give the same initial weights; absent means random. */
    seed: Uint64.nullish(),
    /** Adapt the output head. */
    train_unembed: z.boolean().default(true),
    /** Adapt the MLP projections, experts included. */
    train_mlp: z.boolean().default(true),
    /** Adapt the attention projections. */
    train_attn: z.boolean().default(true),
  })
  .refine((lora) => lora.train_attn || lora.train_mlp || lora.train_unembed, {
    message: 'nothing to train: set at least one of train_attn, train_mlp, train_unembed',
  })
  .meta({ id: 'LoraConfig', description: 'What a LoRA adapter covers' });

export type LoraConfig = z.infer<typeof LoraConfig>;

import * as z from 'zod';
import { Datum } from './datum.ts';
import { LossFn, LossFnConfig } from './loss-fn.ts';

/** A batch and the loss to run over it. */
export const ForwardBackwardInput = z
  .strictObject({
    data: z.array(Datum).min(1, 'data must hold at least one datum'),
    loss_fn: LossFn,
    loss_fn_config: LossFnConfig.nullish(),
  })
  .meta({ id: 'ForwardBackwardInput', description: 'A batch and the loss to run over it' });

export type ForwardBackwardInput = z.infer<typeof ForwardBackwardInput>;

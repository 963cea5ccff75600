import * as z from 'zod';
import { Counter } from './integers.ts';

/** One input of a custom loss: 0 is a scalar, 1 is [T], 2 is [T, K]. */
export const CustomLossInput = z
  .strictObject({ name: z.string(), rank: z.union([z.literal(0), z.literal(1), z.literal(2)]) })
  .meta({ id: 'CustomLossInput' });

export type CustomLossInput = z.infer<typeof CustomLossInput>;

/** One node of a traced loss, as torch.fx records it. */
export const CustomLossNode = z
  .strictObject({
    op: z.enum(['placeholder', 'get_attr', 'call_function', 'call_method', 'call_module', 'output']),
    name: z.string(),
    target: z.string(),
    args: z.array(z.unknown()).default([]),
    kwargs: z.record(z.string(), z.unknown()).default({}),
  })
  .meta({ id: 'CustomLossNode' });

export type CustomLossNode = z.infer<typeof CustomLossNode>;

export const CustomLossGraph = z
  .strictObject({ format: z.literal(1).default(1), nodes: z.array(CustomLossNode) })
  .meta({ id: 'CustomLossGraph' });

export type CustomLossGraph = z.infer<typeof CustomLossGraph>;

export const CreateCustomLossRequest = z
  .strictObject({
    session_id: z.string().min(1),
    custom_loss_seq_id: Counter,
    name: z.string(),
    inputs: z.array(CustomLossInput),
    graph: CustomLossGraph,
    type: z.literal('create_custom_loss').default('create_custom_loss'),
  })
  .meta({ id: 'CreateCustomLossRequest' });

export type CreateCustomLossRequest = z.infer<typeof CreateCustomLossRequest>;

export const CreateCustomLossResponse = z
  .object({ loss_id: z.string(), type: z.literal('create_custom_loss').default('create_custom_loss') })
  .meta({ id: 'CreateCustomLossResponse' });

export type CreateCustomLossResponse = z.infer<typeof CreateCustomLossResponse>;

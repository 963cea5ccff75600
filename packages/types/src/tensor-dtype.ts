import * as z from 'zod';

/** The two element types that the API's users see. */
export const TensorDtype = z.enum(['int64', 'float32']).meta({ id: 'TensorDtype' });

export type TensorDtype = z.infer<typeof TensorDtype>;

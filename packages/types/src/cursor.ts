import * as z from 'zod';

/** Which part of a list a page is. */
export const Cursor = z
  .object({ offset: z.int().nonnegative(), limit: z.int().nonnegative(), total_count: z.int().nonnegative() })
  .meta({ id: 'Cursor' });

export type Cursor = z.infer<typeof Cursor>;

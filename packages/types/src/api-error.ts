import * as z from 'zod';

/** Body of an error answer; clients show `detail`. */
export const ApiErrorBody = z
  .object({
    detail: z.unknown(),
    /** Stable name of the kind of error. */
    code: z.string().nullish(),
    request_id: z.string().nullish(),
  })
  .meta({ id: 'ApiErrorBody' });

export type ApiErrorBody = z.infer<typeof ApiErrorBody>;

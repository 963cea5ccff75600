import * as z from 'zod';

export const AuthTokenResponse = z.object({ jwt: z.string() }).meta({ id: 'AuthTokenResponse' });

export type AuthTokenResponse = z.infer<typeof AuthTokenResponse>;

/** Who the caller is. */
export const WhoamiResponse = z
  .object({ user_urn: z.string(), org_urn: z.string(), email: z.string().nullish() })
  .meta({ id: 'WhoamiResponse' });

export type WhoamiResponse = z.infer<typeof WhoamiResponse>;

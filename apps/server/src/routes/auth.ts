import * as z from 'zod';
import { answers, type Routes } from './route.ts';

const tags = ['keys'];

/** The presented key, as `tinker auth login` shows it. */
const PresentedKey = z
  .object({
    key_id: z.int(),
    name: z.string(),
    note: z.string(),
    details: z.object({
      org_details: z.object({ name: z.string() }),
      user_details: z.object({ email: z.string() }),
    }),
  })
  .meta({ id: 'PresentedKey' });

export const authRoutes: Routes = async (app, { services: { keys } }) => {
  app.get('/auth/apikey/me', { schema: { tags, response: answers(PresentedKey) } }, async (request) => {
    const key = await keys.get(request.apiKeyId);
    return {
      key_id: Number.parseInt(key.id.replaceAll('-', '').slice(0, 12), 16),
      name: key.label,
      note: '',
      details: { org_details: { name: key.owner }, user_details: { email: key.owner } },
    };
  });

  app.delete('/auth/apikey/me', { schema: { tags } }, async (request, reply) => {
    await keys.revoke(request.apiKeyId);
    return reply.code(204).send();
  });
};

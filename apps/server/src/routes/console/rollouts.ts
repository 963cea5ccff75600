import { ConsoleRolloutDetail, ConsoleRolloutSessions, ConsoleRollouts } from '@anneal/types/console';
import * as z from 'zod';
import { answers, type Routes } from '../route.ts';

const tags = ['console'];
const ofSession = z.object({ session_id: z.string() });
const page = z.strictObject({
  limit: z.coerce.number().int().min(1).max(100).default(50),
  offset: z.coerce.number().int().min(0).default(0),
});

/** Samples that were recorded, for reading. */
export const consoleRolloutRoutes: Routes = async (app, { services: { console } }) => {
  const { rollouts } = console;

  app.get(
    '/rollouts',
    { schema: { tags, response: answers(ConsoleRolloutSessions) } },
    async ({ owner }) => ({
      sessions: await rollouts.sessions(owner),
    }),
  );

  app.get(
    '/sessions/:session_id/rollouts',
    { schema: { tags, params: ofSession, querystring: page, response: answers(ConsoleRollouts) } },
    async ({ owner, params, query }) => ({
      rollouts: await rollouts.ofSession(params.session_id, owner, query.limit, query.offset),
    }),
  );

  app.delete(
    '/sessions/:session_id/rollouts',
    { schema: { tags, params: ofSession } },
    async ({ owner, params }, reply) => {
      await rollouts.deleteSession(params.session_id, owner);
      return reply.code(204).send();
    },
  );

  app.get(
    '/rollouts/:rollout_id',
    {
      schema: {
        tags,
        params: z.object({ rollout_id: z.string() }),
        response: answers(ConsoleRolloutDetail),
      },
    },
    ({ owner, params }) => rollouts.get(params.rollout_id, owner),
  );
};

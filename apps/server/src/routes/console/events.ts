import type { Routes } from '../route.ts';

/**
 * Server-sent events: `overview` every two seconds, `metrics` after steps of the owner's runs, `rollouts` after samples of
 * the owner's sessions. Data are as in the types package's `consoleEvents`.
 */
export const consoleEventRoutes: Routes = async (app, { services: { console } }) => {
  app.get('/events', { schema: { tags: ['console'] } }, async (request, reply) => {
    return reply
      .type('text/event-stream; charset=utf-8')
      .header('cache-control', 'no-cache')
      .header('x-accel-buffering', 'no')
      .serializer((payload: unknown) => payload as string)
      .send(console.feed.open(request.owner));
  });
};

import { ConsoleHistory, ConsoleOverview, ConsoleSessions } from '@anneal/types/console';
import { answers, type Routes } from '../route.ts';

const tags = ['console'];

/** How the server is, and who works with it. */
export const consoleOverviewRoutes: Routes = async (app, { services: { console } }) => {
  app.get('/overview', { schema: { tags, response: answers(ConsoleOverview) } }, () =>
    console.monitor.overview(),
  );

  app.get('/history', { schema: { tags, response: answers(ConsoleHistory) } }, async () =>
    console.monitor.history(),
  );

  app.get('/sessions', { schema: { tags, response: answers(ConsoleSessions) } }, async ({ owner }) => ({
    sessions: await console.runs.sessions(owner),
  }));
};

import { consoleAccountRoutes } from './account.ts';
import { consoleEventRoutes } from './events.ts';
import { consoleOverviewRoutes } from './overview.ts';
import { consoleRolloutRoutes } from './rollouts.ts';
import { consoleRunRoutes } from './runs.ts';

/** Where the console's own calls are. Everything else that it needs it asks of the Tinker and OpenAI calls. */
export const CONSOLE_API_PREFIX = '/console/api';

export const consoleRoutes = [
  consoleOverviewRoutes,
  consoleRunRoutes,
  consoleRolloutRoutes,
  consoleAccountRoutes,
  consoleEventRoutes,
];

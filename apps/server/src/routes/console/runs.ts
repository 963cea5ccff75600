import { ConsoleCalls, ConsoleMetrics, ConsoleRunDetail, ConsoleRuns } from '@anneal/types/console';
import * as z from 'zod';
import { answers, type Routes } from '../route.ts';

const tags = ['console'];
const params = z.object({ run_id: z.string() });
const page = z.strictObject({
  limit: z.coerce.number().int().min(1).max(200).default(50),
  offset: z.coerce.number().int().min(0).default(0),
});
/** The largest number that the column of steps holds. */
const MAX_STEP = 2 ** 31 - 1;
const since = z.strictObject({
  after: z.coerce.number().int().min(0).max(MAX_STEP).optional().describe('Only steps after this one'),
});

const calls = z.strictObject({
  after: z.coerce
    .number()
    .int()
    .min(0)
    .max(Number.MAX_SAFE_INTEGER)
    .default(0)
    .describe('Only calls that ended after this cursor'),
  limit: z.coerce.number().int().min(1).max(1000).default(1000),
  last: z.stringbool().default(false).describe('Of those that match, the latest instead of the first'),
});

/** Training runs with their curves. */
export const consoleRunRoutes: Routes = async (app, { services: { console } }) => {
  app.get(
    '/runs',
    { schema: { tags, querystring: page, response: answers(ConsoleRuns) } },
    ({ owner, query }) => console.runs.list(owner, query.limit, query.offset),
  );

  app.get(
    '/runs/:run_id',
    { schema: { tags, params, response: answers(ConsoleRunDetail) } },
    ({ owner, params }) => console.runs.detail(params.run_id, owner),
  );

  app.get(
    '/runs/:run_id/metrics',
    { schema: { tags, params, querystring: since, response: answers(ConsoleMetrics) } },
    ({ owner, params, query }) => console.runs.metrics(params.run_id, owner, query.after),
  );

  app.get(
    '/runs/:run_id/calls',
    { schema: { tags, params, querystring: calls, response: answers(ConsoleCalls) } },
    ({ owner, params, query }) => console.runs.calls(params.run_id, owner, query),
  );
};

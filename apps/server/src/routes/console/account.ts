import { ConsoleAccount, ConsoleKeys, ConsoleUsage } from '@anneal/types/console';
import * as z from 'zod';
import { version } from '../../version.ts';
import { answers, type Routes } from '../route.ts';

const tags = ['console'];
const period = z.strictObject({ days: z.coerce.number().int().min(1).max(366).default(30) });

/** Keys and usage of the presented key's owner. New keys are made with `anneal keys create`, on the machine itself. */
export const consoleAccountRoutes: Routes = async (app, { services: { console } }) => {
  const { account, recorder } = console;

  app.get('/account', { schema: { tags, response: answers(ConsoleAccount) } }, async (request) => ({
    owner: request.owner,
    key_id: request.apiKeyId,
    version,
    records_rollouts: recorder.recordsRollouts,
  }));

  app.get('/keys', { schema: { tags, response: answers(ConsoleKeys) } }, async (request) => ({
    keys: await account.keys(request.owner, request.apiKeyId),
  }));

  app.delete(
    '/keys/:key_id',
    { schema: { tags, params: z.object({ key_id: z.string() }) } },
    async ({ owner, params }, reply) => {
      await account.revoke(params.key_id, owner);
      return reply.code(204).send();
    },
  );

  app.get(
    '/usage',
    { schema: { tags, querystring: period, response: answers(ConsoleUsage) } },
    ({ owner, query }) => account.usage(owner, query.days),
  );
};

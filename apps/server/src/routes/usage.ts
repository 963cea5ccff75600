import { CurrentCheckpointStorageUsageResponse } from '@anneal/types';
import * as z from 'zod';
import { answers, body, type Routes } from './route.ts';

const tags = ['usage'];
const query = z.strictObject({ project_id: z.string().optional() });

const GIGABYTE = 1e9;

/** What a key's owner has stored. Nothing is billed here, so that costs and rates stay empty. */
export const usageRoutes: Routes = async (app, { services: { usage } }) => {
  app.get(
    '/billing/usage/checkpoints/current',
    {
      schema: { tags, querystring: body(query), response: answers(CurrentCheckpointStorageUsageResponse) },
    },
    async ({ owner, query: { project_id: project } }) => {
      const projects = await usage.storage(owner);
      const data = projects
        .filter(({ projectId }) => project === undefined || projectId === project)
        .map(({ projectId, count, bytes }) => ({
          project_id: projectId,
          user_name: owner,
          checkpoint_count: count,
          size_bytes: bytes,
          size_gigabytes: bytes / GIGABYTE,
        }));
      return { data };
    },
  );
};

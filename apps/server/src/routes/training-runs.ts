import {
  AccessScopeQuery,
  CheckpointsListResponse,
  ListCheckpointsQuery,
  ListTrainingRunsQuery,
  TrainingRun,
  TrainingRunsResponse,
} from '@anneal/types';
import * as z from 'zod';
import { pageSize } from '../services/runs.ts';
import { toCheckpoint, toTrainingRun } from '../wire/listings.ts';
import { answers, body, type Routes } from './route.ts';

const params = z.object({ run_id: z.string() });
const tags = ['training runs'];

export const trainingRunRoutes: Routes = async (app, { services: { runs, checkpoints } }) => {
  app.get(
    '/training_runs',
    { schema: { tags, querystring: body(ListTrainingRunsQuery), response: answers(TrainingRunsResponse) } },
    async ({ owner, query }) => {
      const { rows, total } = await runs.list(owner, query);
      const latest = await checkpoints.latest(rows, owner);
      return {
        training_runs: rows.map((run) => toTrainingRun(run, latest)),
        cursor: { offset: query.offset, limit: pageSize(query.limit), total_count: total },
      };
    },
  );

  app.get(
    '/training_runs/:run_id',
    { schema: { tags, params, querystring: body(AccessScopeQuery), response: answers(TrainingRun) } },
    async ({ owner, params: { run_id: id }, query }) => {
      const run = await runs.get(id, owner, query.access_scope);
      return toTrainingRun(run, await checkpoints.latest([run], owner));
    },
  );

  app.get(
    '/training_runs/:run_id/checkpoints',
    { schema: { tags, params, response: answers(CheckpointsListResponse) } },
    async ({ owner, params: { run_id: id } }) => {
      const run = await runs.get(id, owner, 'accessible');
      return { checkpoints: (await checkpoints.ofRun(run, owner)).map(toCheckpoint) };
    },
  );

  app.get(
    '/checkpoints',
    { schema: { tags, querystring: body(ListCheckpointsQuery), response: answers(CheckpointsListResponse) } },
    async ({ owner, query }) => {
      const { offset } = query;
      const limit = pageSize(query.limit);
      const { rows, total } = await checkpoints.ofOwner(owner, limit, offset);
      return { checkpoints: rows.map(toCheckpoint), cursor: { offset, limit, total_count: total } };
    },
  );
};

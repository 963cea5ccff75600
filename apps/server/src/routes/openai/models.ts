import * as z from 'zod';
import { OpenAiModelList, OpenAiModelObject, openAiAnswers } from '../../wire/openai-responses.ts';
import type { Routes } from '../route.ts';
import { nowSeconds } from './generation.ts';

const tags = ['openai'];

/** The models that `model` can name. */
export const openAiModelRoutes: Routes = async (app, { services: { openAi } }) => {
  const created = nowSeconds();
  const describe = (id: string) => ({ id, object: 'model' as const, created, owned_by: 'anneal' });

  app.get('/models', { schema: { tags, response: openAiAnswers(OpenAiModelList) } }, async () => ({
    object: 'list' as const,
    data: openAi.models.names.map(describe),
  }));

  app.get(
    '/models/*',
    { schema: { tags, params: z.object({ '*': z.string() }), response: openAiAnswers(OpenAiModelObject) } },
    async (request) => {
      const model = await openAi.models.find(request.params['*'], request.owner);
      return describe(model.id);
    },
  );
};

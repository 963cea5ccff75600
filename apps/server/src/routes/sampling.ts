import {
  CreateSamplingSessionRequest,
  CreateSamplingSessionResponse,
  GetSamplerResponse,
  JoinSamplingSessionRequest,
  JoinSamplingSessionResponse,
  SampleRequest,
  UntypedApiFuture,
} from '@anneal/types';
import * as z from 'zod';
import { answers, body, type Routes } from './route.ts';

const tags = ['sampling'];

export const samplingRoutes: Routes = async (app, { services: { samplers, sampling } }) => {
  app.post(
    '/create_sampling_session',
    {
      schema: {
        tags,
        body: body(CreateSamplingSessionRequest),
        response: answers(CreateSamplingSessionResponse),
      },
    },
    async (request) => ({
      type: 'create_sampling_session' as const,
      sampling_session_id: await samplers.create(request.owner, request.body),
    }),
  );

  app.post(
    '/join_sampling_session',
    {
      schema: {
        tags,
        body: body(JoinSamplingSessionRequest),
        response: answers(JoinSamplingSessionResponse),
      },
    },
    async (request) => ({
      type: 'join_sampling_session' as const,
      client_counter: await samplers.join(request.body.sampling_session_id, request.owner),
    }),
  );

  app.get(
    '/samplers/:sampler_id',
    {
      schema: { tags, params: z.object({ sampler_id: z.string() }), response: answers(GetSamplerResponse) },
    },
    async (request) => {
      const sampler = await samplers.get(request.params.sampler_id, request.owner);
      return { sampler_id: sampler.id, base_model: sampler.baseModel, model_path: sampler.modelPath };
    },
  );

  app.post(
    '/asample',
    { schema: { tags, body: body(SampleRequest), response: answers(UntypedApiFuture) } },
    (request) => sampling.sample(request.owner, request.body),
  );
};

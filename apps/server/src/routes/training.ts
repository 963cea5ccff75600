import {
  CreateCustomLossRequest,
  decodeForwardBackwardJson,
  decodeForwardBackwardRequest,
  ForwardBackwardRequest,
  ForwardRequest,
  OptimStepRequest,
  SaveWeightsExternalRequest,
  SaveWeightsForSamplerRequest,
  SaveWeightsRequest,
  UntypedApiFuture,
} from '@anneal/types';
import * as z from 'zod';
import { ApiError } from '../errors.ts';
import { answers, body, type Routes } from './route.ts';

const tags = ['training'];
const response = answers(UntypedApiFuture);

/** Protobuf of current clients, or JSON of those before 0.25. */
const Pass = z.union([
  z.instanceof(Uint8Array).meta({ type: 'string', format: 'binary' }),
  body(ForwardBackwardRequest),
]);

/** Asked before the schema drops what AdamW does not know, so that no other optimizer turns into it unnoticed. */
function refuseOtherOptimizers(input: unknown): void {
  const { optimizer_params, optim_params } = (input ?? {}) as Record<string, { type?: unknown } | undefined>;
  for (const params of [optimizer_params, optim_params]) {
    const type = params?.type;
    if (type === undefined || type === 'adamw') continue;
    const named = typeof type === 'string' ? `"${type}"` : `of type ${typeof type}`;
    throw new ApiError('invalid_request', `optimizer type ${named} is not served here; use "adamw"`);
  }
}

export const trainingRoutes: Routes = async (app, { services: { passes, saves, sessions } }) => {
  const sequenced = (kind: string) => ({ config: { sequenced: kind } });

  app.post(
    '/forward_backward',
    { ...sequenced('forward_backward'), schema: { tags, body: Pass, response } },
    ({ owner, body: input }) =>
      passes.forwardBackward(
        owner,
        input instanceof Uint8Array ? decodeForwardBackwardRequest(input) : decodeForwardBackwardJson(input),
      ),
  );

  app.post(
    '/forward',
    { ...sequenced('forward'), schema: { tags, body: body(ForwardRequest), response } },
    (request) => passes.forwardBackward(request.owner, decodeForwardBackwardJson(request.body)),
  );

  app.post(
    '/optim_step',
    {
      ...sequenced('optim_step'),
      schema: { tags, body: body(OptimStepRequest), response },
      preValidation: async (request) => refuseOtherOptimizers(request.body),
    },
    (request) => passes.optimStep(request.owner, request.body),
  );

  app.post(
    '/save_weights',
    { ...sequenced('save_weights'), schema: { tags, body: body(SaveWeightsRequest), response } },
    (request) => saves.saveWeights(request.owner, request.body),
  );

  app.post(
    '/save_weights_for_sampler',
    {
      ...sequenced('save_weights_for_sampler'),
      schema: { tags, body: body(SaveWeightsForSamplerRequest), response },
    },
    (request) => saves.saveForSampler(request.owner, request.body),
  );

  app.post(
    '/save_weights_external',
    {
      ...sequenced('save_weights_external'),
      schema: { tags, body: body(SaveWeightsExternalRequest), response },
    },
    (request) => saves.saveExternal(request.owner, request.body),
  );

  app.post(
    '/create_custom_loss',
    { schema: { tags, body: body(CreateCustomLossRequest), response } },
    async (request) => {
      await sessions.getOpen(request.body.session_id, request.owner);
      const message =
        'Losses are not uploaded to this server: use forward_backward_custom, which computes them in the client, or a loss module in the server configuration';
      throw new ApiError('invalid_request', message);
    },
  );
};

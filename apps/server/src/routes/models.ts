import {
  CreateModelRequest,
  GetInfoRequest,
  GetInfoResponse,
  LoadWeightsRequest,
  UnloadModelRequest,
  UntypedApiFuture,
} from '@anneal/types';
import { ApiError } from '../errors.ts';
import { answers, body, type Routes } from './route.ts';

const tags = ['models'];
const response = answers(UntypedApiFuture);

export const modelRoutes: Routes = async (app, { services: { models, training, baseModels } }) => {
  app.post('/create_model', { schema: { tags, body: body(CreateModelRequest), response } }, (request) =>
    models.create(request.owner, request.body),
  );

  app.post(
    '/get_info',
    { schema: { tags, body: body(GetInfoRequest), response: answers(GetInfoResponse) } },
    async (request) => {
      const run = await training.getRun(request.body.model_id, request.owner);
      return {
        type: 'get_info' as const,
        model_id: run.id,
        model_name: run.baseModel,
        is_lora: true,
        lora_rank: run.lora.rank,
        optimizer_config: { type: 'adamw' as const },
        model_data: {
          arch: baseModels.find(run.baseModel)?.arch ?? null,
          model_name: run.baseModel,
          tokenizer_id: baseModels.tokenizerOf(run.baseModel),
        },
      };
    },
  );

  app.post(
    '/load_weights',
    { config: { sequenced: 'load_weights' }, schema: { tags, body: body(LoadWeightsRequest), response } },
    (request) => {
      const { model_id, session_id, model_seq_id } = request.body;
      if (model_id) return models.loadInto(request.owner, { ...request.body, model_id });
      if (session_id && model_seq_id != null) {
        return models.createFromCheckpoint(request.owner, { ...request.body, session_id, model_seq_id });
      }
      throw new ApiError('invalid_request', 'give model_id and seq_id, or session_id and model_seq_id');
    },
  );

  app.post('/unload_model', { schema: { tags, body: body(UnloadModelRequest), response } }, (request) =>
    models.unload(request.owner, request.body.model_id),
  );
};

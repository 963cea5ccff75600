import {
  CopyWeightsRequest,
  CopyWeightsResponse,
  SetCheckpointTtlRequest,
  WeightsInfoRequest,
  WeightsInfoResponse,
} from '@anneal/types';
import * as z from 'zod';
import { answers, body, type Routes } from './route.ts';

export const checkpointParams = z.object({
  run_id: z.string(),
  kind: z.enum(['weights', 'sampler_weights', 'external_weights']),
  name: z.string().min(1),
});

type Params = z.infer<typeof checkpointParams>;

/** Two segments of the path, `:` and all, are the run's id and the checkpoint's. */
export const CHECKPOINT = '/training_runs/:run_id/checkpoints/:kind/:name';

export function keyOf({ run_id, kind, name }: Params) {
  return { runId: run_id, kind, name };
}

const tags = ['checkpoints'];

export const checkpointRoutes: Routes = async (app, { services: { checkpoints, copies } }) => {
  const schema = { tags, params: checkpointParams };

  app.delete(CHECKPOINT, { schema }, async ({ owner, params }, reply) => {
    await checkpoints.delete(keyOf(params), owner);
    return reply.code(204).send();
  });

  app.post(`${CHECKPOINT}/publish`, { schema }, async ({ owner, params }, reply) => {
    await checkpoints.setPublic(keyOf(params), owner, true);
    return reply.code(204).send();
  });

  app.delete(`${CHECKPOINT}/publish`, { schema }, async ({ owner, params }, reply) => {
    await checkpoints.setPublic(keyOf(params), owner, false);
    return reply.code(204).send();
  });

  app.put(
    `${CHECKPOINT}/ttl`,
    { schema: { ...schema, body: body(SetCheckpointTtlRequest) } },
    async (request, reply) => {
      await checkpoints.setTtl(keyOf(request.params), request.owner, request.body.ttl_seconds);
      return reply.code(204).send();
    },
  );

  app.post(
    '/weights_info',
    { schema: { tags, body: body(WeightsInfoRequest), response: answers(WeightsInfoResponse) } },
    async (request) => {
      const checkpoint = await checkpoints.find(request.body.tinker_path, request.owner);
      return {
        base_model: checkpoint.baseModel,
        optimizer_config: { type: 'adamw' as const },
        is_lora: true,
        lora_rank: checkpoint.loraRank,
        train_unembed: checkpoint.trainUnembed,
        train_mlp: checkpoint.trainMlp,
        train_attn: checkpoint.trainAttn,
      };
    },
  );

  app.post(
    '/copy_weights',
    { schema: { tags, body: body(CopyWeightsRequest), response: answers(CopyWeightsResponse) } },
    async (request) => {
      const key = request.headers['x-idempotency-key'];
      const path = await copies.copy(request.owner, request.body, typeof key === 'string' ? key : undefined);
      return { tinker_path: path };
    },
  );
};

import {
  ClientConfigRequest,
  ClientConfigResponse,
  ClientDynamicConfigResponse,
  GetServerCapabilitiesResponse,
  HealthResponse,
  TelemetryResponse,
  TelemetrySendRequest,
} from '@anneal/types';
import { ApiError } from '../errors.ts';
import { answers, body, type Routes } from './route.ts';

const MAX_EVENTS = 100;
const MAX_TELEMETRY_BYTES = 16 * 2 ** 20;

/** What a client asks before it works, and what it tells about itself. */
export const serviceRoutes: Routes = async (app, { services }) => {
  const tags = ['service'];

  app.get(
    '/healthz',
    { config: { public: true }, schema: { tags, response: answers(HealthResponse) } },
    async () => {
      await services.health();
      return { status: 'ok' as const };
    },
  );

  app.post(
    '/client/config',
    { schema: { tags, body: body(ClientConfigRequest), response: answers(ClientConfigResponse.partial()) } },
    async () => ({ sample_join_sampling_session: true }),
  );

  app.post(
    '/client/dynamic_config',
    {
      schema: {
        tags,
        body: body(ClientConfigRequest),
        response: answers(ClientDynamicConfigResponse.partial()),
      },
    },
    async () => ({ sample_cancel_enabled: true }),
  );

  app.get(
    '/get_server_capabilities',
    { schema: { tags, response: answers(GetServerCapabilitiesResponse) } },
    async () => ({
      supported_models: services.baseModels.all.map((model) => ({
        model_name: model.name,
        max_context_length: model.maxContextLength,
        trainable: true,
        sampleable: true,
      })),
    }),
  );

  app.post(
    '/telemetry',
    {
      bodyLimit: MAX_TELEMETRY_BYTES,
      schema: { tags, body: body(TelemetrySendRequest), response: answers(TelemetryResponse) },
    },
    async (request) => {
      const count = request.body.events.length;
      if (count > MAX_EVENTS) {
        throw new ApiError('invalid_request', `events: ${count} are more than ${MAX_EVENTS} in one request`);
      }
      return { status: 'accepted' as const };
    },
  );
};

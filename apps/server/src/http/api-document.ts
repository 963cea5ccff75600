import { wireRegistry } from '@anneal/types';
import fastifySwagger from '@fastify/swagger';
import fastifySwaggerUi from '@fastify/swagger-ui';
import type { FastifyInstance } from 'fastify';
import { createJsonSchemaTransform, createJsonSchemaTransformObject } from 'fastify-type-provider-zod';
import { version } from '../version.ts';

/** What each call does, by the end of its method and path. */
const SUMMARIES: Record<string, string> = {
  'GET /healthz': 'Whether training and sampling work',
  'POST /client/config': 'Settings that the SDK asks for before it works',
  'POST /client/dynamic_config': 'Settings that the SDK asks for again and again',
  'GET /get_server_capabilities': 'The base models that are served',
  'POST /telemetry': 'Takes usage events of an SDK, and drops them',
  'GET /auth/apikey/me': 'The presented key',
  'DELETE /auth/apikey/me': 'Revokes the presented key',
  'POST /create_session': 'Begins a session, in which models and samplers are made',
  'POST /session_heartbeat': 'Tells that the client of a session is still there',
  'POST /sessions/:session_id/finish': 'Ends a session; its models are freed',
  'GET /sessions': 'Ids of the sessions of the owner, newest first',
  'GET /sessions/:session_id': 'The runs and samplers of a session',
  'POST /sessions/search': 'Sessions by project, name, tags and time',
  'PUT /sessions/:session_id/project': 'Moves a session to another project',
  'POST /create_model': 'Makes a LoRA adapter that can be trained',
  'POST /get_info': 'What a model is made of, and which tokenizer it needs',
  'POST /load_weights': 'Puts a checkpoint into a model, or makes a model of it',
  'POST /unload_model': 'Frees a model',
  'POST /forward_backward': 'Adds the gradient of a loss to what has come together since the last step',
  'POST /forward': 'The loss and its outputs, without a gradient',
  'POST /optim_step': 'One step of the optimizer with the gradient that has come together',
  'POST /save_weights': 'Saves a training state: adapter and optimizer',
  'POST /save_weights_for_sampler': 'Saves an adapter to sample from, by name or for this session',
  'POST /save_weights_external': 'Saves an adapter as PEFT loads it, for other programs',
  'POST /create_custom_loss': 'Refused: losses are computed in the client, or by a module of the server',
  'POST /retrieve_future': 'The result of a request, as soon as it is there',
  'POST /retrieve_futures': 'Which samples of a sampler have ended',
  'POST /cancel_future': 'Ends a sample that nobody waits for any more',
  'POST /create_sampling_session': 'Opens a sampler on a base model or a checkpoint',
  'POST /join_sampling_session': 'Lets another process use a sampler',
  'GET /samplers/:sampler_id': 'What a sampler samples from',
  'POST /asample': 'Samples texts, or scores a prompt',
  'GET /training_runs': 'The runs of the owner, newest first',
  'GET /training_runs/:run_id': 'One run',
  'GET /training_runs/:run_id/checkpoints': 'The checkpoints of a run',
  'GET /checkpoints': 'The checkpoints of the owner, newest first',
  'DELETE /checkpoints/:kind/:name': 'Deletes a checkpoint for good',
  'POST /checkpoints/:kind/:name/publish': 'Lets every key read a checkpoint',
  'DELETE /checkpoints/:kind/:name/publish': 'Keeps a checkpoint to its owner again',
  'PUT /checkpoints/:kind/:name/ttl': 'Sets when a checkpoint is deleted',
  'POST /weights_info': 'What a checkpoint holds',
  'POST /copy_weights': 'Copies a checkpoint to a new run',
  'GET /external_weights_urls': 'Links to the files of an export',
  'GET /archive': 'A link to the files of a checkpoint in one archive',
  'GET /trace_export': 'A link to the trace of a session',
  'GET /trace.json': 'The requests of a session in the Trace Event Format, by a signed link',
  'GET /archive.tar': 'The files of a checkpoint in one archive, by a signed link',
  'GET /files/:file': 'One file of an export, by a signed link',
  'GET /billing/usage/checkpoints/current': 'How much room checkpoints take',
  'GET /v1/models': 'Base models and checkpoints that can answer',
  'GET /v1/models/*': 'One model',
  'POST /v1/completions': 'Continues a text',
  'POST /v1/chat/completions': 'Answers in a conversation',
};

/** The answer of a call whose route describes none. */
const NO_CONTENT = { 204: { description: 'Done', type: 'null' } };

const BINARY = { type: 'string', format: 'binary' };

/** JSON of older SDKs, and protobuf, which JSON Schema cannot describe. */
function inBothForms(json: unknown) {
  return { content: { 'application/json': { schema: json }, 'application/x-protobuf': { schema: BINARY } } };
}

/** Describes every call at `/openapi.json`, from the schemas that check it, and shows that at `/docs`. */
export async function addApiDocument(http: FastifyInstance): Promise<void> {
  const toJsonSchema = createJsonSchemaTransform({ schemaRegistry: wireRegistry });
  await http.register(fastifySwagger, {
    openapi: {
      openapi: '3.1.0',
      info: { title: 'Anneal', version, license: { name: 'Apache-2.0', identifier: 'Apache-2.0' } },
      components: {
        securitySchemes: {
          apiKey: { type: 'apiKey', in: 'header', name: 'X-API-Key' },
          bearer: { type: 'http', scheme: 'bearer' },
        },
      },
      security: [{ apiKey: [] }, { bearer: [] }],
    },
    transform: (input) => {
      const { schema, url } = toJsonSchema(input);
      const { config, method: methods } = input.route;
      const [method = ''] = [methods].flat();
      return {
        url,
        schema: {
          ...schema,
          ...summaryOf(method, url),
          ...(config?.public ? { security: [] } : {}),
          ...(schema.response || method === 'GET' ? {} : { response: NO_CONTENT }),
          ...(url.endsWith('/forward_backward') ? { body: inBothForms(schema.body) } : {}),
        },
      };
    },
    transformObject: createJsonSchemaTransformObject({ schemaRegistry: wireRegistry }),
  });
  await http.register(fastifySwaggerUi, { routePrefix: '/docs' });
  http.get('/openapi.json', { schema: { hide: true } }, () => http.swagger());
}

/** The console's calls serve the console and go without. */
function summaryOf(method: string, url: string): { summary?: string } {
  const parts = url.split('/');
  for (let first = 1; first < parts.length; first += 1) {
    const summary = SUMMARIES[`${method} /${parts.slice(first).join('/')}`];
    if (summary) return { summary };
  }
  return {};
}

import type { Engine } from '@anneal/engine';
import type { Store } from '@anneal/store';
import fastifyRateLimit from '@fastify/rate-limit';
import Fastify, { type FastifyInstance, type FastifyServerOptions, type RouteOptions } from 'fastify';
import { serializerCompiler, validatorCompiler } from 'fastify-type-provider-zod';
import type { ServerConfig } from './config.ts';
import { Downloads } from './downloads/downloads.ts';
import { SignedLinks } from './downloads/signed-links.ts';
import { ApiError } from './errors.ts';
import { addApiDocument } from './http/api-document.ts';
import { addAuth } from './http/auth.ts';
import { addBodyParsers } from './http/body-parsers.ts';
import { addConsole } from './http/console-files.ts';
import { sendError, toApiError } from './http/error-handler.ts';
import { requestId, sendRequestIds } from './http/logging.ts';
import { consumeRefused } from './http/sequenced-refusal.ts';
import { logUnknownFields } from './http/unknown-fields.ts';
import { closeUnusedConnections } from './http/unused-connections.ts';
import { authRoutes } from './routes/auth.ts';
import { checkpointRoutes } from './routes/checkpoints.ts';
import { CONSOLE_API_PREFIX, consoleRoutes } from './routes/console/api.ts';
import { downloadRoutes } from './routes/downloads.ts';
import { futureRoutes } from './routes/futures.ts';
import { addMetrics } from './routes/metrics.ts';
import { modelRoutes } from './routes/models.ts';
import { sendOpenAiError } from './routes/openai/error.ts';
import { addOpenAiRoutes, isOpenAiUrl, OPENAI_PREFIXES } from './routes/openai/openai-api.ts';
import type { RouteDeps, Routes } from './routes/route.ts';
import { samplingRoutes } from './routes/sampling.ts';
import { serviceRoutes } from './routes/service.ts';
import { sessionRoutes } from './routes/sessions.ts';
import { trainingRoutes } from './routes/training.ts';
import { trainingRunRoutes } from './routes/training-runs.ts';
import { usageRoutes } from './routes/usage.ts';
import { createServices, type Services } from './services/services.ts';
import type { Tracing } from './telemetry/tracing.ts';

export interface AppDeps {
  store: Store;
  engine: Engine;
  config: ServerConfig;
  /** Folder of the built console; absent: it is not built. */
  consoleFolder?: string | undefined;
  /** Where spans go; absent: there are none. */
  tracing?: Tracing | undefined;
  /** Where log lines go; absent: nowhere. */
  logger?: FastifyServerOptions['logger'];
}

export interface App {
  http: FastifyInstance;
  services: Services;
  /** Every call, with the schemas that check it. */
  routes: RouteOptions[];
}

const MIB = 2 ** 20;

/** Idle connections outlive the longest poll, or clients meet closed ones. */
const KEEP_ALIVE_MS = 75_000;

const groups: Routes[] = [
  serviceRoutes,
  authRoutes,
  sessionRoutes,
  modelRoutes,
  trainingRoutes,
  futureRoutes,
  samplingRoutes,
  trainingRunRoutes,
  checkpointRoutes,
  downloadRoutes,
  usageRoutes,
];

/** Builds the HTTP application over a store and an engine. Opens no port and reads no file or environment. */
export async function buildApp({
  store,
  engine,
  config,
  consoleFolder,
  tracing,
  logger,
}: AppDeps): Promise<App> {
  const http = Fastify({
    logger: logger ?? false,
    genReqId: requestId,
    bodyLimit: config.bodyLimitMiB * MIB,
    keepAliveTimeout: KEEP_ALIVE_MS,
    requestTimeout: 0,
    forceCloseConnections: 'idle',
    routerOptions: { maxParamLength: 1000 },
    exposeHeadRoutes: true,
    frameworkErrors: (error, request, reply) => {
      if (isOpenAiUrl(request.url)) sendOpenAiError(error, request, reply);
      else sendError(toApiError(error, request), request, reply);
    },
  });
  sendRequestIds(http);
  tracing?.addTo(http);
  const services = await createServices(store, engine, config, http.log, tracing);
  const links = new SignedLinks(await store.settings.secret('downloads'), config.downloadMinutes * 60_000);
  http.setErrorHandler((error, request, reply) => sendError(toApiError(error, request), request, reply));
  http.setNotFoundHandler((request, reply) =>
    sendError(
      new ApiError('not_found', `${request.method} ${request.url} is no call of this server`),
      request,
      reply,
    ),
  );
  if (services.metrics) await addMetrics(http, services.metrics, store.keys, config);
  const routes: RouteOptions[] = [];
  http.addHook('onRoute', (route) => void routes.push(route));
  if (config.docs) await addApiDocument(http);
  const deps = { services, config, downloads: new Downloads(store, links) };
  await http.register((scope) => addApi(scope, deps, store), { prefix: '/api/v1' });
  for (const prefix of OPENAI_PREFIXES) {
    await http.register((scope) => addOpenAi(scope, deps, store), { prefix });
  }
  if (config.console) {
    await http.register((scope) => addConsoleApi(scope, deps, store), { prefix: CONSOLE_API_PREFIX });
    await http.register((scope) => addConsole(scope, consoleFolder));
    http.addHook('onListen', async () => services.console.monitor.start());
  }
  closeUnusedConnections(http);
  http.addHook('preClose', async () => {
    services.openAi.generator.close();
    services.console.monitor.stop();
    services.console.feed.close();
    await services.futures.close();
  });
  return { http, services, routes };
}

async function addApi(scope: FastifyInstance, deps: RouteDeps, store: Store): Promise<void> {
  await addFrontDoor(scope, deps.config, store);
  logUnknownFields(scope);
  scope.setErrorHandler(async (thrown, request, reply) => {
    const error = toApiError(thrown, request);
    await consumeRefused(deps.services.training, request, error);
    return sendError(error, request, reply);
  });
  for (const group of groups) await scope.register(group, deps);
}

async function addOpenAi(scope: FastifyInstance, deps: RouteDeps, store: Store): Promise<void> {
  await addFrontDoor(scope, deps.config, store);
  await addOpenAiRoutes(scope, deps);
}

async function addConsoleApi(scope: FastifyInstance, deps: RouteDeps, store: Store): Promise<void> {
  await addFrontDoor(scope, deps.config, store);
  for (const group of consoleRoutes) await scope.register(group, deps);
}

/** What every call passes: body, key, limit and schema. */
async function addFrontDoor(scope: FastifyInstance, config: ServerConfig, store: Store): Promise<void> {
  scope.setValidatorCompiler(validatorCompiler);
  scope.setSerializerCompiler(serializerCompiler);
  addBodyParsers(scope, config.bodyLimitMiB * MIB);
  addAuth(scope, store.keys);
  if (config.rateLimitPerMinute > 0) await addRateLimit(scope, config.rateLimitPerMinute);
}

async function addRateLimit(scope: FastifyInstance, perMinute: number): Promise<void> {
  await scope.register(fastifyRateLimit, {
    max: perMinute,
    timeWindow: 60_000,
    hook: 'preValidation',
    keyGenerator: (request) => request.apiKeyId || request.ip,
    errorResponseBuilder: (_request, { ttl }) =>
      new ApiError('too_many_requests', `More than ${perMinute} requests in a minute: slow down`, {
        retryAfter: Math.ceil(ttl / 1000),
      }),
  });
}

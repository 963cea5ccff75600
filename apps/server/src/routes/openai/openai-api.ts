import type { FastifyInstance } from 'fastify';
import { ApiError } from '../../errors.ts';
import type { RouteDeps } from '../route.ts';
import { chatRoutes } from './chat.ts';
import { completionRoutes } from './completions.ts';
import { sendOpenAiError } from './error.ts';
import { openAiModelRoutes } from './models.ts';

/** Where the OpenAI-compatible calls are: as most servers have them, and as the Tinker service does. */
export const OPENAI_PREFIXES = ['/v1', '/oai/api/v1'];

/** For URLs that no route could take. */
export const isOpenAiUrl = (url: string): boolean =>
  OPENAI_PREFIXES.some((prefix) => url.startsWith(`${prefix}/`));

/** Adds the OpenAI-compatible calls, with errors in OpenAI's shape. */
export async function addOpenAiRoutes(scope: FastifyInstance, deps: RouteDeps): Promise<void> {
  scope.setErrorHandler((thrown, request, reply) => sendOpenAiError(thrown, request, reply));
  scope.setNotFoundHandler((request, reply) => {
    const message = `${request.method} ${request.url} is no call of this server`;
    return sendOpenAiError(new ApiError('not_found', message), request, reply);
  });
  for (const routes of [openAiModelRoutes, completionRoutes, chatRoutes]) await scope.register(routes, deps);
}

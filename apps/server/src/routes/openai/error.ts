import type { FastifyReply, FastifyRequest } from 'fastify';
import { hasZodFastifySchemaValidationErrors } from 'fastify-type-provider-zod';
import type { ApiError } from '../../errors.ts';
import { toApiError } from '../../http/error-handler.ts';
import { REQUEST_ID_HEADER } from '../../http/logging.ts';
import { OpenAiRefusal } from '../../services/openai-refusal.ts';
import type { OpenAiErrorBody } from '../../wire/openai-responses.ts';

/** Whatever was thrown, in OpenAI's shape. Server faults are logged here. */
export function toErrorBody(
  thrown: unknown,
  request: FastifyRequest,
): { error: ApiError; body: OpenAiErrorBody } {
  const error = toApiError(thrown, request);
  if (error.status >= 500) request.log.error({ err: error.cause ?? error }, error.message);
  const refusal = error instanceof OpenAiRefusal ? error : undefined;
  const code = refusal?.openAiCode ?? (error.code === 'unauthenticated' ? 'invalid_api_key' : null);
  const param = refusal?.param ?? paramOf(thrown);
  return { error, body: { error: { message: error.message, type: typeOf(error.status), param, code } } };
}

/** Sends an error in OpenAI's shape. */
export function sendOpenAiError(thrown: unknown, request: FastifyRequest, reply: FastifyReply): FastifyReply {
  const { error, body } = toErrorBody(thrown, request);
  // A request that no route could take has passed no hook.
  reply.header(REQUEST_ID_HEADER, request.id);
  if (error.retryAfter !== undefined) reply.header('retry-after', error.retryAfter);
  return reply
    .code(error.status)
    .type('application/json; charset=utf-8')
    .serializer((value: unknown) => JSON.stringify(value))
    .send(body);
}

function typeOf(status: number): OpenAiErrorBody['error']['type'] {
  if (status === 401) return 'authentication_error';
  if (status === 429) return 'rate_limit_error';
  return status >= 500 ? 'server_error' : 'invalid_request_error';
}

/** The first field that the schema refused; for an unknown field, its own name. */
function paramOf(thrown: unknown): string | null {
  if (!hasZodFastifySchemaValidationErrors(thrown)) return null;
  const [issue] = thrown.validation;
  const path = issue?.instancePath.split('/').filter((part) => part !== '') ?? [];
  const keys: unknown = issue?.params.keys;
  const unknown = Array.isArray(keys) ? keys.slice(0, 1).map(String) : [];
  return [...path, ...unknown].join('.') || null;
}

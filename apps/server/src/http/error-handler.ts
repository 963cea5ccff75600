import { EngineError } from '@anneal/engine';
import { WireFormatError } from '@anneal/types';
import type { FastifyError, FastifyReply, FastifyRequest } from 'fastify';
import { hasZodFastifySchemaValidationErrors } from 'fastify-type-provider-zod';
import { ApiError, codeOfStatus } from '../errors.ts';

/** Whatever was thrown, as an error to show. */
export function toApiError(error: unknown): ApiError {
  if (error instanceof ApiError) return error;
  if (error instanceof WireFormatError)
    return new ApiError('invalid_request', error.message, { cause: error });
  if (error instanceof EngineError) {
    const code = error.category === 'user' ? 'invalid_request' : 'internal';
    return new ApiError(code, error.message, { cause: error });
  }
  if (hasZodFastifySchemaValidationErrors(error)) {
    return new ApiError('invalid_request', describeIssues(error), { cause: error });
  }
  const status = (error as Partial<FastifyError>).statusCode ?? 500;
  if (status >= 500) return new ApiError('internal', 'The server failed; its log says why', { cause: error });
  return new ApiError(codeOfStatus(status), (error as Error).message, { cause: error });
}

/** Sends an error: always JSON with `detail`, because clients take an empty 400 for a fault on the way. */
export function sendError(error: ApiError, request: FastifyRequest, reply: FastifyReply): FastifyReply {
  if (error.status >= 500) request.log.error({ err: error.cause ?? error }, error.message);
  if (error.retryAfter !== undefined) reply.header('retry-after', error.retryAfter);
  return reply
    .code(error.status)
    .type('application/json; charset=utf-8')
    .serializer((body: unknown) => JSON.stringify(body))
    .send({ detail: error.message, code: error.code });
}

interface ValidationError {
  validationContext?: string;
  validation: { instancePath: string; message?: string; params?: { issue?: { input?: unknown } } }[];
}

/** Names each field, what is wrong with it, and its value where it is short. */
function describeIssues(error: ValidationError): string {
  return error.validation
    .map(({ instancePath, message, params }) => {
      const field = instancePath.slice(1).replaceAll('/', '.') || (error.validationContext ?? 'body');
      const value = params?.issue?.input;
      const shown = isShort(value) ? ` (got ${JSON.stringify(value)})` : '';
      return `${field}: ${message ?? 'is invalid'}${shown}`;
    })
    .join('; ');
}

function isShort(value: unknown): boolean {
  if (typeof value === 'string') return value.length <= 100;
  return typeof value === 'number' || typeof value === 'boolean';
}

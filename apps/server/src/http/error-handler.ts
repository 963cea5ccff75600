import { EngineError } from '@anneal/engine';
import { isTextRefused } from '@anneal/store';
import { WireFormatError } from '@anneal/types';
import type { FastifyError, FastifyReply, FastifyRequest } from 'fastify';
import { hasZodFastifySchemaValidationErrors } from 'fastify-type-provider-zod';
import type * as z from 'zod';
import { ApiError, codeOfStatus } from '../errors.ts';
import { REQUEST_ID_HEADER } from './logging.ts';

/** Whatever was thrown, as an error to show. */
export function toApiError(error: unknown, request: FastifyRequest): ApiError {
  if (error instanceof ApiError) return error;
  if (error instanceof WireFormatError)
    return new ApiError('invalid_request', error.message, { cause: error });
  if (error instanceof EngineError) {
    const code = error.category === 'user' ? 'invalid_request' : 'internal';
    return new ApiError(code, error.message, { cause: error });
  }
  if (hasZodFastifySchemaValidationErrors(error)) {
    return new ApiError('invalid_request', describeIssues(error, request), { cause: error });
  }
  if (isTextRefused(error)) {
    return new ApiError('invalid_request', 'A text of the request holds a NUL character', { cause: error });
  }
  const status = (error as Partial<FastifyError>).statusCode ?? 500;
  if (status >= 500) return new ApiError('internal', 'The server failed; its log says why', { cause: error });
  return new ApiError(codeOfStatus(status), (error as Error).message, { cause: error });
}

/** Sends an error: always JSON with `detail`, because clients take an empty 400 for a fault on the way. */
export function sendError(error: ApiError, request: FastifyRequest, reply: FastifyReply): FastifyReply {
  if (error.status >= 500) request.log.error({ err: error.cause ?? error }, error.message);
  // A request that no route could take has passed no hook.
  reply.header(REQUEST_ID_HEADER, request.id);
  if (error.retryAfter !== undefined) reply.header('retry-after', error.retryAfter);
  return reply
    .code(error.status)
    .type('application/json; charset=utf-8')
    .serializer((body: unknown) => JSON.stringify(body))
    .send({ detail: error.message, code: error.code });
}

interface ValidationError {
  validationContext?: string;
  validation: {
    keyword: string;
    instancePath: string;
    message?: string;
    params?: { errors?: z.core.$ZodIssue[][] };
  }[];
}

interface Problem {
  path: string[];
  message: string;
}

/** Names each field, what is wrong with it, and its value where it is short. */
function describeIssues(error: ValidationError, request: FastifyRequest): string {
  const context = error.validationContext ?? 'body';
  const parts: Record<string, unknown> = {
    body: request.body,
    params: request.params,
    querystring: request.query,
  };
  return error.validation
    .flatMap(({ instancePath, message, params }) => {
      const path = instancePath === '/' ? [] : instancePath.split('/').slice(1);
      return likeliest({ path, message: message ?? 'is invalid' }, params?.errors ?? []);
    })
    .map(({ path, message }) => {
      const shown = shortForm(valueAt(parts[context], path));
      return `${path.join('.') || context}: ${message}${shown === undefined ? '' : ` (got ${shown})`}`;
    })
    .join('; ');
}

/** Of the alternatives of a union, the one that the value was most likely meant to be: its mistakes lie deepest. */
function likeliest(whole: Problem, alternatives: readonly z.core.$ZodIssue[][]): Problem[] {
  const [best] = alternatives
    .map((issues) => issues.flatMap((issue) => problemsOf(issue, whole.path)))
    .filter((problems) => problems.every(({ path }) => path.length > whole.path.length))
    .sort((a, b) => a.length - b.length);
  return best ?? [whole];
}

function problemsOf(issue: z.core.$ZodIssue, base: string[]): Problem[] {
  const problem = { path: [...base, ...issue.path.map(String)], message: issue.message };
  return issue.code === 'invalid_union' ? likeliest(problem, issue.errors) : [problem];
}

function valueAt(value: unknown, path: string[]): unknown {
  return path.reduce<unknown>(
    (inner, key) => (typeof inner === 'object' && inner !== null ? Reflect.get(inner, key) : undefined),
    value,
  );
}

function shortForm(value: unknown): string | undefined {
  if (typeof value === 'string') return value.length <= 100 ? JSON.stringify(value) : undefined;
  return ['number', 'boolean', 'bigint'].includes(typeof value) ? String(value) : undefined;
}

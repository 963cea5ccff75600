import { unknownFields } from '@anneal/types';
import type { FastifyInstance } from 'fastify';
import * as z from 'zod';

const MAX_SEEN = 1000;

/** Newer clients send fields that we do not know: they are dropped, and logged once for each client version. */
export function logUnknownFields(app: FastifyInstance): void {
  const seen = new Set<string>();
  app.addHook('preValidation', async (request) => {
    const { body } = request.routeOptions.schema ?? {};
    const route = request.routeOptions.url ?? '';
    const key = `${route} ${request.headers['x-stainless-package-version'] ?? ''}`;
    if (!(body instanceof z.ZodType) || seen.has(key) || seen.size >= MAX_SEEN) return;
    seen.add(key);
    const strict = strictForms.get(body);
    const fields = strict ? unknownFields(strict, request.body) : [];
    if (fields.length > 0) request.log.warn({ route, fields }, 'unknown fields of the request are ignored');
  });
}

/** By tolerant schema, the strict one that knows which fields there are. */
export const strictForms = new WeakMap<z.ZodType, z.ZodType>();

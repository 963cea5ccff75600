import { ApiErrorBody, wire } from '@anneal/types';
import type { FastifyPluginAsyncZod } from 'fastify-type-provider-zod';
import type * as z from 'zod';
import type { ServerConfig } from '../config.ts';
import type { Downloads } from '../downloads/downloads.ts';
import { strictForms } from '../http/unknown-fields.ts';
import type { Services } from '../services/services.ts';

export interface RouteDeps {
  services: Services;
  config: ServerConfig;
  downloads: Downloads;
}

/** A group of routes: schema and handler each, all else is in the services. */
export type Routes = FastifyPluginAsyncZod<RouteDeps>;

/** A request's schema as the server reads it: unknown fields are dropped and logged. */
export function body<T extends z.ZodType>(schema: T): T {
  const tolerant = wire(schema);
  strictForms.set(tolerant, schema);
  return tolerant;
}

/** Answers of a route: 200, and errors. */
export function answers<T extends z.ZodType>(schema: T) {
  return { 200: wire(schema), '4xx': wire(ApiErrorBody), '5xx': wire(ApiErrorBody) };
}
